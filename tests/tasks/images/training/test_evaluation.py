"""Stored weights on whole splits, averages of several, and trials that train on validation images, too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.keras_studies import study
from tests.tasks.images.training.test_trial import MENDED, SPOILED, order, run
from tuner import errors
from tuner.kernels import checkpoints
from tuner.protocol import messages
from tuner.protocol.messages import Stage
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training import evaluation, study_context
from tuner.tasks.images.training.study_context import StudyContext


def asked(
    folder: Path, weights: tuple[str, ...], hyperparameters: Hyperparameters = MENDED, average: Path | None = None
) -> messages.Predict:
    return messages.Predict(
        trial=3,
        hyperparameters=hyperparameters,
        weights=weights,
        average=None if average is None else str(average),
        splits=("validation", "test"),
        to=str(folder / "answers" / "found.npz"),
    )


def trained(
    context: StudyContext, folder: Path, hyperparameters: Hyperparameters = MENDED, *, seed: int = 7
) -> tuple[str, messages.Finished]:
    finished, _ = run(context, order(folder / str(seed), hyperparameters, seed=seed))
    assert finished.weights is not None
    return finished.weights, finished


def test_logits_of_both_splits_give_the_accuracies_that_were_measured(context: StudyContext, tmp_path: Path) -> None:
    weights, finished = trained(context, tmp_path)
    evaluation.predict(context, asked(tmp_path, (weights,)))
    found = np.load(tmp_path / "answers" / "found.npz")
    scored = evaluation.evaluate(context, messages.Evaluate(trial=3, hyperparameters=MENDED, weights=weights))
    assert (found["validation"].argmax(1) == found["validation_labels"]).mean() == finished.value
    assert (found["test"].argmax(1) == found["test_labels"]).mean() == scored.accuracy
    assert (found["test"].shape, found["test"].dtype) == ((50, 10), np.float32)


def test_the_test_split_is_scored_in_the_metric_of_the_study(context: StudyContext, tmp_path: Path) -> None:
    balanced = replace(context, study=study(objective="balanced_accuracy"))
    weights, _ = trained(balanced, tmp_path)
    scored = evaluation.evaluate(balanced, messages.Evaluate(trial=3, hyperparameters=MENDED, weights=weights))
    confusion = np.array(scored.confusion)
    assert scored.value == pytest.approx(np.mean(np.diag(confusion) / confusion.sum(1)))
    assert scored.metrics["accuracy"] == scored.accuracy == pytest.approx(np.trace(confusion) / 50)


def test_the_average_of_equal_weights_is_those_weights(context: StudyContext, tmp_path: Path) -> None:
    weights, _ = trained(context, tmp_path)
    evaluation.predict(context, asked(tmp_path, (weights, weights), average=tmp_path / "soup.npz"))
    of_two, one = (checkpoints.read_weights(path, study=context.identity) for path in (tmp_path / "soup.npz", Path(weights)))
    assert len(of_two) == len(one)
    assert all(np.array_equal(mean, value) for mean, value in zip(of_two, one, strict=True))


def test_the_average_is_the_mean_and_its_logits_are_those_of_the_written_file(context: StudyContext, tmp_path: Path) -> None:
    paths = tuple(trained(context, tmp_path, seed=seed)[0] for seed in (7, 8))
    soup = tmp_path / "soup.npz"
    evaluation.predict(context, asked(tmp_path, paths, average=soup))
    first = np.load(tmp_path / "answers" / "found.npz")["test"]
    kept = [checkpoints.read_weights(path, study=context.identity) for path in (*map(Path, paths), soup)]
    for one, other, mean in zip(*kept, strict=True):
        assert mean == pytest.approx((one + other) / 2, abs=1e-6)
    evaluation.predict(context, asked(tmp_path, (str(soup),)))
    assert np.array_equal(np.load(tmp_path / "answers" / "found.npz")["test"], first)


def test_a_trial_that_was_best_in_its_probe_counts_as_pretrained_below_its_head(context: StudyContext, tmp_path: Path) -> None:
    opened, _ = trained(context, tmp_path)
    (head_only, _) = trained(context, tmp_path, SPOILED.model_copy(update={"unfreeze": MENDED.unfreeze}), seed=8)
    kept = [checkpoints.read_weights(Path(path), study=context.identity) for path in (opened, head_only)]
    assert len(kept[1]) < len(kept[0])
    found = evaluation.average(context, MENDED, kept)
    pretrained = [variable.numpy() for _, variable in context.backbone.top(MENDED.unfreeze)]
    whole = [*kept[1], *pretrained]
    for mean, one, other in zip(found, kept[0], whole, strict=False):
        assert mean == pytest.approx((one + other) / 2, abs=1e-5)
    assert len(found) == len(kept[0])


def test_weights_of_another_study_are_not_asked_about(context: StudyContext, tmp_path: Path) -> None:
    weights, _ = trained(context, tmp_path)
    other = replace(context, network="another")
    with pytest.raises(errors.DataError, match="from a study with other images or another model"):
        evaluation.predict(other, asked(tmp_path, (weights,)))


@pytest.fixture(scope="module")
def on_all(cache: Path) -> StudyContext:
    """The small study, trained on its validation images, too."""
    given = study(training={"probe_epochs": 3, "epochs": 2, "probe_heads": 2, "images": "train+validation"}, result={"trial_seed": 7})
    return study_context.prepare(given, cache=cache)


def test_a_trial_on_train_and_validation_images_sees_all_of_them_and_keeps_its_last_epoch(
    on_all: StudyContext, context: StudyContext, tmp_path: Path
) -> None:
    data = on_all.data
    assert (len(data.train.labels), len(data.validation.labels), len(data.test.labels)) == (160, 60, 50)
    assert np.array_equal(data.test.labels, context.data.test.labels)
    assert data.splits == context.data.splits
    assert on_all.identity != context.identity
    finished, control = run(on_all, order(tmp_path, SPOILED))
    assert finished.best_step == 5
    assert finished.value == control.curve[-1].validation_accuracy
    assert [epoch.stage for epoch in control.curve] == [Stage.PROBE] * 3 + [Stage.FINE_TUNE] * 2
    assert max(epoch.validation_accuracy for epoch in control.curve) > finished.value
