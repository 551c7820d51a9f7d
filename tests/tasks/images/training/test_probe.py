"""The probe: heads trained on given features."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_studies import study
from tuner.kernels import head, losses, scoring
from tuner.spec import domains
from tuner.spec.hyperparameters import LOSSES, Augmentation, Features, Flip, Hyperparameters, Loss, ProbeSolver, TargetKind
from tuner.spec.objective import ImageMetric, ImageObjective
from tuner.spec.study import StudySpec
from tuner.tasks.images.training import features, probe, study_context, views
from tuner.tasks.images.training.study_context import StudyContext

GOOD = {"probe_learning_rate": 3e-2, "batch_size": 20, "dropout": 0.0}


def train(context: StudyContext, *, epochs: int = 3, seed: int = 1, num_heads: int = 1, **given: Any) -> list[probe.MeasuredEpoch]:
    return list(begin(context, epochs=epochs, seed=seed, num_heads=num_heads, **given).epochs())


def begin(context: StudyContext, *, epochs: int = 3, seed: int = 1, num_heads: int = 1, **given: Any) -> probe.StepwiseProbe:
    hyperparameters = Hyperparameters.model_validate(GOOD | given)
    longer = replace(context, study=study(training={"probe_epochs": epochs, "probe_heads": num_heads, "epochs": 0}))
    return probe.StepwiseProbe(longer, hyperparameters, seed=seed)


def test_the_head_learns_and_the_backbone_stays_as_it_is(context: StudyContext) -> None:
    before = [variable.numpy() for variable in context.backbone.network.variables]
    epochs = train(context, epochs=15)
    assert len(epochs) == 15
    assert epochs[-1].loss < epochs[0].loss / 2
    assert epochs[-1].accuracy > 0.8
    assert epochs[-1].validation.accuracy > 0.4
    assert all((variable.numpy() == value).all() for variable, value in zip(context.backbone.network.variables, before, strict=True))


@pytest.mark.parametrize("solver", [ProbeSolver.SGD, ProbeSolver.LBFGS])
def test_a_number_predicted_from_few_images_is_in_the_range_of_the_labels(cache: Path, solver: ProbeSolver) -> None:
    data = {"source": "python", "function": "tests.tasks.images.training.labeled:numbers", "target": "number"}
    spec = StudySpec.model_validate(
        {"name": "few", "data": data, "model": {"backbone": "squeezenet1_1", "image_size": 32}, "training": {"epochs": 0, "probe_heads": 1}}
    )
    few = study_context.prepare(spec, cache=cache)
    given = Hyperparameters(loss=Loss.MSE, features=Features.SEVERAL, unfreeze=0.0, probe_solver=solver)
    [by_own, floored] = [
        [epoch.validation.value for epoch in probe.begin(few, given.model_copy(update={"feature_floor": floor}), seed=0).epochs()][-1]
        for floor in (0.0, domains.values(spec.search.feature_floor)[0])
    ]
    assert floored < by_own
    assert floored < 60  # the labels are from 100 to 300


def test_the_learning_rate_falls_to_zero(context: StudyContext) -> None:
    rates = [epoch.learning_rate for epoch in train(context, epochs=6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 3e-2 / 100


@pytest.mark.parametrize("loss", LOSSES[TargetKind.LABEL])
def test_every_loss_is_minimized(context: StudyContext, loss: Loss) -> None:
    epochs = train(context, epochs=5, loss=loss)
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize("batch_size", [1, 7, 100, 4096])
def test_any_batch_size_works(context: StudyContext, batch_size: int) -> None:
    [epoch] = train(context, epochs=1, batch_size=batch_size)
    assert np.isfinite(epoch.loss)


def test_the_confusion_counts_every_validation_image(context: StudyContext) -> None:
    [epoch] = train(context, epochs=1, head_units=(16,))
    assert np.sum(epoch.validation.confusion) == 60


@pytest.mark.parametrize("kind", Features)
def test_the_weights_are_those_that_were_scored(context: StudyContext, kind: Features) -> None:
    running = begin(context, features=kind, head_units=(16,))
    *_, last = running.epochs()
    seen = context.features("validation", (views.ORIGINAL,)).whole()[0, :, -context.backbone.num_features(kind) :]
    logits = head.forward(running.weights(), seen, activation="relu").numpy()
    assert (logits.argmax(1) == context.data.validation.labels).mean() == pytest.approx(last.validation.accuracy)


def test_a_probe_does_not_depend_on_earlier_probes(context: StudyContext) -> None:
    first = train(context, dropout=0.4, head_units=(9,))
    train(context, dropout=0.1, head_units=(40,), probe_learning_rate=0.3, features=Features.SEVERAL)
    assert train(context, dropout=0.4, head_units=(9,)) == first


def test_the_best_of_several_heads_is_reported_and_passed_on(context: StudyContext) -> None:
    running = begin(context, num_heads=4, probe_learning_rate=1e-6, epochs=8)
    *_, last = running.epochs()
    [alone] = [train(context, probe_learning_rate=1e-6, epochs=8)[-1]]
    assert last.validation.accuracy >= alone.validation.accuracy
    assert last.learning_rate in [pytest.approx(alone.learning_rate * factor) for factor in probe.rate_factors(4)]
    seen = context.features("validation", (views.ORIGINAL,)).whole()[0, :, -context.backbone.num_features(Features.LAST) :]
    logits = head.forward(running.weights(), seen, activation="relu").numpy()
    assert (logits.argmax(1) == context.data.validation.labels).mean() == pytest.approx(last.validation.accuracy)


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 2), ("macro_f1", 1), ("log_loss", 0)])
def test_the_best_head_is_that_of_the_metric_of_the_study(metric: ImageMetric, best: int) -> None:
    labels = np.repeat([0, 1], [10, 2])
    # the first is unsure, and wrong for six images; the second finds both images of the rare class; the third always answers 0
    first, second, third = np.zeros((3, 12, 2), np.float32)
    first[:6, 0], first[6:10, 1], first[10:, 0] = 0.5, 0.5, 0.1
    second[:7, 0], second[7:, 1] = 3.0, 3.0
    third[:, 0] = 6.0
    loss = losses.plain_loss(Loss.CROSS_ENTROPY, 0.0)
    judged = [(scoring.value(metric, logits, labels), losses.mean(logits, labels, loss)) for logits in (first, second, third)]
    assert probe._best(np.ones(3, np.float32), judged, ImageObjective(metric=metric)) == best
    assert probe._best(np.array([np.nan] * best + [1.0] + [np.nan] * (2 - best)), judged[::-1], ImageObjective(metric=metric)) == best


def test_a_head_with_a_far_too_high_learning_rate_affects_no_other(context: StudyContext) -> None:
    spread = [1.0, 1e35]
    running = begin(context, num_heads=2, optimizer="sgd", weight_decay=0.0, head_units=(8,), epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "rate_factors", lambda num_heads: spread)
        measured = list(running.epochs())
    assert all(np.isfinite(epoch.loss) for epoch in measured)
    assert all(np.isfinite(value).all() for value in running.weights())


def test_a_probe_that_diverges_says_so(context: StudyContext) -> None:
    last = train(context, optimizer="sgd", probe_learning_rate=100.0, weight_decay=1.0, head_units=(8,), epochs=8)[-1]
    assert not np.isfinite(last.loss)


def test_features_that_are_read_in_parts_train_the_same_head(context: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"augmentation": Augmentation(flip=Flip.HORIZONTAL), "batch_size": 20, "dropout": 0.3}
    whole = begin(context, **given)
    expected = list(whole.epochs())
    weights = whole.weights()
    monkeypatch.setattr(features, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(probe, "_ROWS_AT_ONCE", 40)
    parts = begin(context, **given)
    found = list(parts.epochs())
    assert [epoch.validation.accuracy for epoch in found] == [epoch.validation.accuracy for epoch in expected]
    for value, own in zip(parts.weights(), weights, strict=True):
        np.testing.assert_allclose(value, own, rtol=1e-3, atol=1e-5)


def test_predictions_are_made_in_parts_of_limited_size(context: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train(context)
    seen: list[int] = []
    predict = head.HeadsProgram.predict

    def counted(program: head.HeadsProgram, rows: Any) -> Any:
        seen.append(len(rows))
        return predict(program, rows)

    monkeypatch.setattr(head.HeadsProgram, "predict", counted)
    monkeypatch.setattr(probe, "_ROWS_AT_ONCE", 25)
    found = train(context)
    assert seen == [25, 25, 10] * 3
    assert [epoch.validation.confusion for epoch in found] == [epoch.validation.confusion for epoch in expected]


def test_mirror_images_take_their_turns_with_the_images(context: StudyContext) -> None:
    assert train(context, augmentation=Augmentation(flip=Flip.HORIZONTAL)) != train(context)


EXACT = [ProbeSolver.LBFGS, ProbeSolver.CONJUGATE_GRADIENT, ProbeSolver.RIDGE]
MIRRORED = Augmentation(flip=Flip.HORIZONTAL)


def solve(context: StudyContext, *, solved: dict[Any, Any] | None = None, images: str = "train", **given: Any) -> probe.Probe:
    """Return an exact probe after its epoch; by default, no earlier solution is known."""
    hyperparameters = Hyperparameters.model_validate({"augmentation": MIRRORED} | given)
    training = {"probe_epochs": 3, "epochs": 0, "images": images}
    fresh = replace(context, solved={} if solved is None else solved, study=study(training=training, result={"trial_seed": 1}))
    running = probe.begin(fresh, hyperparameters, seed=1)
    [measured] = list(running.epochs())
    seen = context.features("validation", (views.ORIGINAL,)).whole()[0, :, -context.backbone.num_features(hyperparameters.features) :]
    logits = head.forward(running.weights(), seen, activation="relu").numpy()
    assert (logits.argmax(1) == fresh.data.validation.labels).mean() == pytest.approx(measured.validation.accuracy)
    assert np.sum(measured.validation.confusion) == 60
    assert np.isfinite([measured.loss, measured.accuracy]).all()
    return running


def same(one: probe.Probe, other: probe.Probe, *, within: float = 0.0) -> bool:
    return all(np.allclose(value, own, rtol=0, atol=within) for value, own in zip(one.weights(), other.weights(), strict=True))


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("kind", Features)
def test_an_exact_probe_is_as_good_as_one_in_steps(context: StudyContext, solver: ProbeSolver, kind: Features) -> None:
    [exact] = list(probe.begin(context, Hyperparameters(probe_solver=solver, features=kind), seed=1).epochs())
    stepwise = train(context, epochs=20, features=kind)
    assert exact.validation.accuracy >= max(epoch.validation.accuracy for epoch in stepwise) - 0.05
    assert exact.validation.loss < min(epoch.validation.loss for epoch in stepwise) + 0.05
    solve(context, probe_solver=solver, features=kind)


@pytest.mark.parametrize("solver", EXACT)
def test_trials_that_differ_in_nothing_that_acts_share_one_solution(context: StudyContext, solver: ProbeSolver) -> None:
    solved: dict[Any, Any] = {}
    first = solve(context, solved=solved, probe_solver=solver)
    again = solve(context, solved=solved, probe_solver=solver, dropout=0.5, label_smoothing=0.1, optimizer="sgd", batch_size=7)
    assert again.weights() is first.weights()
    assert len(solved) == 1
    others: list[dict[str, Any]] = [{"features": "several"}, {"class_weights": "balanced"}, {"augmentation": Augmentation()}]
    for number, other in enumerate(others, start=2):
        solve(context, solved=solved, probe_solver=solver, **other)
        assert len(solved) == number
    assert same(first, solve(context, probe_solver=solver))


def test_few_solutions_stay_in_memory(context: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_MOST_SOLVED", 2)
    solved: dict[Any, Any] = {}
    kept = solve(context, solved=solved, probe_solver="ridge")
    solve(context, solved=solved, probe_solver="ridge", features="several")
    solve(context, solved=solved, probe_solver="ridge")
    solve(context, solved=solved, probe_solver="ridge", augmentation=Augmentation())
    assert len(solved) == 2
    assert solve(context, solved=solved, probe_solver="ridge").weights() is kept.weights()


@pytest.mark.parametrize("solver", EXACT)
def test_an_exact_probe_chooses_nothing_by_validation_images_that_it_trains_on(context: StudyContext, solver: ProbeSolver) -> None:
    other = replace(context.data, validation=replace(context.data.validation, labels=np.roll(context.data.validation.labels, 1)))
    expected = solve(context, images="train+validation", probe_solver=solver)
    assert same(expected, solve(replace(context, data=other), images="train+validation", probe_solver=solver))


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("images", ["train", "train+validation"])
def test_an_exact_probe_on_features_that_are_read_in_parts_finds_the_same_head(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch, solver: ProbeSolver, images: str
) -> None:
    expected = solve(context, probe_solver=solver, images=images)
    monkeypatch.setattr(features, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(probe, "_ROWS_AT_ONCE", 30)
    assert same(expected, solve(context, probe_solver=solver, images=images), within=0.02)


@pytest.mark.parametrize("solver", EXACT)
def test_an_exact_probe_can_be_interrupted_and_leaves_no_solution(context: StudyContext, solver: ProbeSolver) -> None:
    fresh = replace(context, solved={})
    calls: list[int] = []

    def interrupt() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    fresh.features("train", (views.ORIGINAL,))
    fresh.store.watch.append(interrupt)
    try:
        with pytest.raises(InterruptedError):
            list(probe.begin(fresh, Hyperparameters(probe_solver=solver), seed=1).epochs())
    finally:
        fresh.store.watch.clear()
    assert not fresh.solved


def test_a_head_with_hidden_layers_is_trained_in_steps(context: StudyContext) -> None:
    assert isinstance(probe.begin(context, Hyperparameters(probe_solver="ridge", head_units=(8,)), seed=1), probe.StepwiseProbe)


@pytest.mark.parametrize(
    ("batch_size", "count", "expected"),
    [
        (32, 2000, 133),  # fifteen steps an epoch
        (32, 100_000, 256),  # the most
        (512, 2000, 512),  # the trial's own where it is larger
        (32, 100, 32),  # the trial's own where images are few
        (32, 10, 10),  # never more than there are
    ],
)
def test_a_probe_step_takes_more_images_if_there_are_enough(batch_size: int, count: int, expected: int) -> None:
    assert probe.images_per_step(batch_size, count) == expected


def test_learning_rates_of_heads_are_spread_around_the_trials_own() -> None:
    assert probe.rate_factors(1) == (1.0,)
    assert probe.rate_factors(5) == (1.0, 2.0, 0.5, 4.0, 0.25)
