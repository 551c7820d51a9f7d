"""Whole trials of images with several labels, and of images with numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_studies import TINY
from tuner.kernels import checkpoints, targets
from tuner.machine import TrainerShare
from tuner.protocol import errands, messages
from tuner.spec.hyperparameters import Augmentation, Hyperparameters, Loss, ProbeSolver, TargetKind
from tuner.spec.study import StudySpec
from tuner.tasks.images.training import prepared, standalone
from tuner.tasks.images.training.prepared import PreparedImages
from tuner.trainer.export import export, exported_model, verify

SEVERAL = {"source": "python", "function": "tests.tasks.images.training.labeled:several", "labels": "several"}
NUMBER = {"source": "python", "function": "tests.tasks.images.training.labeled:numbers", "target": "number"}
DATA = {TargetKind.LABELS: SEVERAL, TargetKind.NUMBER: NUMBER}
STEPWISE = {"probe_solver": ProbeSolver.SGD, "head_units": (8,), "augmentation": Augmentation(mixup=0.3, cutmix=0.3)}
CASES = [
    (TargetKind.LABELS, {"loss": Loss.BINARY_CROSS_ENTROPY, "probe_solver": ProbeSolver.LBFGS, "label_smoothing": 0.1}),
    (TargetKind.LABELS, {"loss": Loss.FOCAL, "class_weights": "balanced", **STEPWISE}),
    (TargetKind.NUMBER, {"loss": Loss.MSE, "probe_solver": ProbeSolver.LBFGS}),
    (TargetKind.NUMBER, {"loss": Loss.HUBER, "ema": 0.9, **STEPWISE}),
    (TargetKind.NUMBER, {"loss": Loss.MAE, "probe_solver": ProbeSolver.CONJUGATE_GRADIENT}),
]


class Port:
    """A worker that lets every trial go on."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: messages.Message) -> None:
        self.sent.append(message)

    def interruption(self) -> None:
        return None

    def decision(self) -> messages.Proceed:
        return messages.Proceed()

    def ask(self, question: Any) -> messages.Answer:
        raise AssertionError(question)


@pytest.fixture(scope="module")
def studies(cache: Path) -> dict[TargetKind, PreparedImages]:
    """A study of each kind, prepared."""
    return {kind: prepared.prepare(study(kind), cache=cache, share=TrainerShare(threads=1)) for kind in DATA}


def study(kind: TargetKind) -> StudySpec:
    training = {"probe_epochs": 3, "epochs": 2, "probe_heads": 2}
    return StudySpec.model_validate({"name": "small", "data": DATA[kind], "model": TINY, "training": training})


@pytest.mark.parametrize(("kind", "given"), CASES)
def test_a_trial_is_trained_measured_and_exported(
    kind: TargetKind, given: dict[str, Any], studies: dict[TargetKind, PreparedImages], tmp_path: Path
) -> None:
    own, hyperparameters, port = studies[kind], Hyperparameters(**given), Port()
    order = messages.Train(trial=0, hyperparameters=hyperparameters, seed=0, weights=str(tmp_path / "w"), checkpoint=str(tmp_path / "c"))
    finished = own.train(order, port)
    epochs = [sent for sent in port.sent if isinstance(sent, messages.Epoch)]
    assert finished.ending is messages.Ending.COMPLETED
    assert finished.confusion == ()
    assert finished.value == (max if kind is TargetKind.LABELS else min)(epoch.measured for epoch in epochs)
    assert all(math.isfinite(epoch.validation_loss) for epoch in epochs)
    assert {math.isnan(epoch.accuracy) for epoch in epochs} == {kind is TargetKind.NUMBER}
    assert finished.weights is not None
    assert finished.logits is not None
    _check_test_score(own, finished, hyperparameters)
    _check_files(own, finished, hyperparameters, tmp_path)


def _check_test_score(own: PreparedImages, finished: messages.Finished, hyperparameters: Hyperparameters) -> None:
    """The test split is scored with the thresholds of the validation split."""
    assert finished.weights is not None
    score = own.evaluate(messages.Evaluate(trial=0, hyperparameters=hyperparameters, weights=finished.weights))
    assert score.value is not None
    if own.context.target.kind is TargetKind.NUMBER:
        assert (score.accuracy, score.by_class) == (None, ())
        assert set(score.metrics) == {"rmse", "r2"}
    else:
        assert [each.threshold for each in score.by_class] == pytest.approx([each.threshold for each in finished.by_class], abs=1e-2)
        assert score.accuracy == score.metrics["exact_match"]


def _check_files(own: PreparedImages, finished: messages.Finished, hyperparameters: Hyperparameters, folder: Path) -> None:
    """Predictions on disk and those of the standalone model are in the units of the user, and score what the trial reported."""
    context, kind = own.context, own.context.target.kind
    assert finished.weights is not None
    assert finished.logits is not None
    with np.load(finished.logits) as stored:
        labels, outputs = stored["validation_labels"], stored["validation"].astype(np.float64)
    in_units = targets.IN_UNITS[kind]
    assert in_units.value(study(kind).objective.metric, outputs, labels) == pytest.approx(finished.value, rel=0.02)
    order = messages.Predict(
        trial=0, hyperparameters=hyperparameters, weights=(finished.weights,), splits=("validation",), to=str(folder / "p")
    )
    own.predict(order)
    with np.load(folder / "p") as stored:
        assert stored["validation_labels"] == pytest.approx(labels)
        predicted = stored["validation"]
    weights = checkpoints.read_weights(Path(finished.weights), study=context.identity)
    model = standalone.build(context, hyperparameters, weights, temperature=1.0)
    images = np.asarray(context.data.validation.images[:]).astype(np.float32)
    expected = predicted if kind is TargetKind.NUMBER else targets.probabilities(predicted)
    assert model(images, training=False).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_worker_is_told_what_a_constant_answer_scores(studies: dict[TargetKind, PreparedImages]) -> None:
    told = {kind: own.describe(seconds=1.0) for kind, own in studies.items()}
    several, number = told[TargetKind.LABELS], told[TargetKind.NUMBER]
    assert several.classes == ("dark", "wide", "rare")
    assert several.always.startswith("always the same labels (")
    assert number.classes == ("number",)
    assert number.always.startswith("always the mean, ")
    for one in (several, number):
        assert (one.commonest, one.commonest_validation) == ("", None)
        assert one.baseline_validation is not None
        assert one.baseline_test is not None


def test_an_ensemble_of_numbers_teaches_numbers(studies: dict[TargetKind, PreparedImages], tmp_path: Path) -> None:
    own, given = studies[TargetKind.NUMBER], Hyperparameters(loss=Loss.MSE)
    first = own.train(
        messages.Train(trial=0, hyperparameters=given, seed=0, weights=str(tmp_path / "a"), checkpoint=str(tmp_path / "b")), Port()
    )
    assert first.weights is not None
    teach = standalone.teacher(
        own.context,
        messages.Teacher(members=(messages.TrainedMember(hyperparameters=given, weights=first.weights),), share=0.5),
        lambda _: own.context,
    )
    images = np.asarray(own.context.data.train.images[:4]).astype(np.float32)
    weights = checkpoints.read_weights(Path(first.weights), study=own.context.identity)
    in_units = standalone.build(own.context, given, weights, temperature=1.0)(images, training=False).numpy()
    assert teach(images, np.zeros((4, 1), np.float32)).numpy() == pytest.approx(own.context.target.encode(in_units) / 2, abs=1e-4)


@pytest.mark.parametrize(("kind", "loss"), [(TargetKind.LABELS, Loss.BINARY_CROSS_ENTROPY), (TargetKind.NUMBER, Loss.MSE)])
def test_an_exported_model_is_compared_and_verified(
    kind: TargetKind, loss: Loss, studies: dict[TargetKind, PreparedImages], tmp_path: Path
) -> None:
    own, given = studies[kind], Hyperparameters(loss=loss, unfreeze=0.0, probe_solver=ProbeSolver.LBFGS)
    order = messages.Train(trial=0, hyperparameters=given, seed=0, weights=str(tmp_path / "w"), checkpoint=str(tmp_path / "c"))
    finished = own.train(order, Port())
    assert finished.weights is not None
    score = own.evaluate(messages.Evaluate(trial=0, hyperparameters=given, weights=finished.weights))
    thresholds = tuple(each.threshold for each in finished.by_class)
    mean = errands.Answers(kind=kind, metric=study(kind).objective.metric, thresholds=thresholds)
    (tmp_path / "bundle").mkdir()
    exported = export.write([own.context], _export(tmp_path, given, finished.weights, mean))
    assert exported.test_value == pytest.approx(score.value, rel=1e-3)
    assert exported.test_accuracy == (None if score.accuracy is None else pytest.approx(score.accuracy))
    assert all(len(probe.truth) == len(exported.classes) for probe in exported.probes)
    form = errands.Format.SAVED_MODEL
    asked = errands.Compare(
        format=form, path=str(tmp_path / "bundle" / errands.BUNDLE_PATHS[form]), answers=str(tmp_path / "a.npz"), answers_mean=mean
    )
    compared = exported_model.compare(asked, threads=1)
    assert compared.agreement == 1
    assert compared.max_difference < 1e-5
    recorded = {"classes": list(exported.classes), "images": [probe.model_dump(mode="json") for probe in exported.probes]}
    (tmp_path / "bundle" / "probes" / errands.PREDICTIONS).write_text(json.dumps(recorded))
    found = verify.verify(_verify(tmp_path / "bundle", kind, tmp_path / "cache", mean))
    assert found.num_agreeing == 4
    mildest = {each.corruption: each.accuracy for each in reversed(found.robust)}
    assert {"noise", "blur", "jpeg", "rotation", "grey", "fgsm"} <= set(mildest)
    assert all(np.isfinite(value) and value >= 0 for value in mildest.values())
    assert found.max_difference < 1e-5
    assert found.test is not None
    assert found.test.value == pytest.approx(exported.test_value)
    assert found.test.fingerprint == own.context.data.fingerprint


def _export(folder: Path, given: Hyperparameters, weights: str, mean: errands.Answers) -> errands.Export:
    return errands.Export(
        cache="", networks=(errands.TrainedNetwork(spec="", hyperparameters=given, weights=weights),), temperature=1.0,
        formats=(errands.Format.KERAS, errands.Format.SAVED_MODEL), folder=str(folder / "bundle"), num_probes=4,
        answers=str(folder / "a.npz"), num_compared=10, scores_test=True, answers_mean=mean,
    )  # fmt: skip


def _verify(bundle: Path, kind: TargetKind, cache: Path, mean: errands.Answers) -> errands.Verify:
    return errands.Verify(
        model=str(bundle / "model.keras"), probes=str(bundle / "probes"), spec=study(kind).model_dump_json(), cache=str(cache),
        is_robustness_wanted=True, most_images=10, answers_mean=mean,
    )  # fmt: skip
