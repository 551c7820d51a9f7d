"""Fine-tuning of the head and the top of the backbone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.keras_studies import study
from tuner import errors
from tuner.kernels import cuts, head
from tuner.spec.hyperparameters import Features, Hyperparameters
from tuner.tasks.images.training import features as feature_files
from tuner.tasks.images.training import fine_tune, steps, views
from tuner.tasks.images.training.study_context import StudyContext

GOOD = {"learning_rate": 1e-2, "batch_size": 20, "dropout": 0.0, "unfreeze": 1.0}


def tuning(context: StudyContext, **given: Any) -> fine_tune.FineTuning:
    hyperparameters = Hyperparameters.model_validate(GOOD | given)
    weights = head.initial_weights(hyperparameters, context.backbone.num_features(hyperparameters.features), context.num_classes, seed=1)
    return fine_tune.FineTuning(context, weights, hyperparameters, seed=1)


def logits(context: StudyContext, stage: fine_tune.FineTuning) -> np.ndarray:
    """Return the logits of the validation images by the scored weights, and leave them in the backbone."""
    weights = stage.weights()
    fine_tune.assign(stage.variables, weights)
    return fine_tune.predict(context, stage.hyperparameters, weights[: len(stage.head)], context.data.validation.images)


def test_the_whole_network_learns(context: StudyContext) -> None:
    stage = tuning(replace(context, epochs=8))
    losses = []
    for epoch in range(8):
        assert len(list(stage.train(epoch))) == 5
        losses.append(stage.measure(epoch).loss)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("features", Features)
def test_the_prediction_is_the_head_on_the_features(context: StudyContext, features: Features) -> None:
    stage = tuning(context, features=features, head_units=(8,))
    seen = context.features("validation", (views.ORIGINAL,)).whole()[0, :, -context.backbone.num_features(features) :]
    expected = head.forward(stage.weights()[: len(stage.head)], seen, activation=stage.hyperparameters.activation)
    np.testing.assert_allclose(logits(context, stage), expected, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("given", [{}, {"features": "several", "head_units": (8,), "unfreeze": 0.5}])
def test_the_running_average_is_scored_and_training_continues_from_the_weights(context: StudyContext, given: dict[str, Any]) -> None:
    stage = tuning(context, ema=0.5, **given)
    start = [variable.numpy() for variable in stage.variables]
    training = stage.train(0)
    averages = start
    for decay in (2 / 11, 3 / 12, 4 / 13):  # shorter at first, whatever the trial asks for
        next(training)
        averages = [decay * old + (1 - decay) * variable.numpy() for old, variable in zip(averages, stage.variables, strict=True)]
    for found, expected in zip(stage.weights(), averages, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    trained = [variable.numpy() for variable in stage.variables]
    measured = stage.measure(0)
    assert all((variable.numpy() == value).all() for variable, value in zip(stage.variables, trained, strict=True))
    assert (logits(context, stage).argmax(1) == context.data.validation.labels).mean() == measured.validation.accuracy


def test_without_a_running_average_the_weights_are_scored(context: StudyContext) -> None:
    stage = tuning(context)
    list(stage.train(0))
    assert all((found == variable.numpy()).all() for found, variable in zip(stage.weights(), stage.variables, strict=True))


@pytest.mark.parametrize(("batch_size", "steps"), [(100, 1), (4096, 1), (30, 3)])
def test_an_epoch_has_one_step_per_full_batch(context: StudyContext, batch_size: int, steps: int) -> None:
    stage = tuning(context, batch_size=batch_size)
    assert len(list(stage.train(0))) == steps
    assert np.isfinite(stage.measure(0).loss)


def test_a_lower_block_is_trained_with_a_smaller_learning_rate(context: StudyContext) -> None:
    stage = tuning(context, layer_decay=0.01, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, warmup=0.0)
    before = [variable.numpy() for variable in stage.variables]
    list(stage.train(0))
    moved = [np.abs(variable.numpy() - value).max() for variable, value in zip(stage.variables, before, strict=True)]
    depths = [0, 0] + [depth + 1 for depth, _ in context.backbone.top(1.0)]
    by_depth = [max(length for length, depth in zip(moved, depths, strict=True) if depth == wanted) for wanted in range(4)]
    assert by_depth[0] > by_depth[1] > by_depth[2] > by_depth[3] > 0


def test_the_gradients_are_clipped_as_the_study_says(context: StudyContext) -> None:
    still = replace(context, study=study(training={"probe_epochs": 1, "epochs": 2, "gradient_clip": 1e-12}))
    stage = tuning(still, optimizer="sgd", weight_decay=0.0)
    before = [variable.numpy() for variable in stage.variables]
    list(stage.train(0))
    assert max(np.abs(variable.numpy() - value).max() for variable, value in zip(stage.variables, before, strict=True)) < 1e-9


@pytest.mark.parametrize(("unfreeze", "opened"), [(0.6, {"conv2", "conv3"}), (1.0, {"conv1", "conv2", "conv3"})])
def test_fine_tuning_changes_only_the_top_and_no_batch_norm(context: StudyContext, unfreeze: float, opened: set[str]) -> None:
    list(tuning(context, unfreeze=unfreeze).train(0))
    variables = context.backbone.network.variables
    changed = [variable for variable, value in zip(variables, context.pretrained, strict=True) if (variable.numpy() != value).any()]
    assert {variable.path.split("/")[-2] for variable in changed} == opened


WAYS: list[dict[str, Any]] = [
    {"unfreeze": 0.4, "features": "several", "augmentation": {"flip": "horizontal"}},
    {"unfreeze": 0.6, "head_units": (8,), "dropout": 0.3},
]


@pytest.mark.parametrize("given", WAYS)
def test_training_on_stored_activations_equals_training_on_images(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    found = []
    for is_kept in (True, False):
        monkeypatch.setattr(feature_files, "is_worth_keeping", lambda *_, is_kept=is_kept, **__: is_kept)
        context.restore()
        stage = tuning(replace(context, epochs=3), optimizer="sgd", **given)
        assert (stage.inputs.activations is not None) == is_kept
        curve = []
        for epoch in range(3):
            list(stage.train(epoch))
            curve.append(stage.measure(epoch))
        found.append((stage.weights(), [epoch.loss for epoch in curve]))
    for kept, computed in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(kept, computed, rtol=1e-2, atol=3e-3)  # what is kept may be rounded to float16
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-2)


def test_a_trial_sees_the_views_of_an_image_in_turn(context: StudyContext) -> None:
    stage = tuning(context, augmentation={"flip": "horizontal"})
    rows, images = np.arange(100), context.data.train.images[:]
    first, second = (next(iter(stage.inputs.batches(epoch, [rows])))[0] for epoch in (0, 1))
    is_mirrored = (first != images).any((1, 2, 3))
    assert 20 < is_mirrored.sum() < 80
    assert (np.where(is_mirrored[:, None, None, None], second, first) == images).all()
    assert (np.where(is_mirrored[:, None, None, None], first, second) == images[:, :, ::-1]).all()


@pytest.mark.parametrize("part", [10, 7, 1])
def test_a_batch_in_parts_gives_the_step_of_the_whole(context: StudyContext, part: int) -> None:
    given: dict[str, Any] = {
        "head_units": (8,),
        "dropout": 0.4,
        "class_weights": "balanced",
        "augmentation": {"mixup": 0.2, "rotation": 0.1},
    }
    whole = tuning(replace(context, traced=steps.TracedSteps()), **given)
    next(whole.train(0))
    expected = whole.weights()
    context.restore()
    in_parts = _Cramped(room=part)
    stage = tuning(replace(context, traced=in_parts), **given)
    next(stage.train(0))
    assert max(in_parts.seen) == 20
    assert in_parts.seen[-1] <= part
    for found, wanted in zip(stage.weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_trial_keeps_processing_as_many_images_as_fit_in_memory(context: StudyContext, caplog: pytest.LogCaptureFixture) -> None:
    cramped = _Cramped(room=5)
    list(tuning(replace(context, traced=cramped)).train(0))
    assert [seen for seen in cramped.seen if seen > 5] == [20, 10]
    assert set(cramped.seen[2:]) == {5}
    assert "out of memory with 20 images at once; continuing with 10 at a time and the same batch size" in caplog.text


def test_a_trial_is_not_affected_by_an_earlier_one_that_ran_out_of_memory(context: StudyContext) -> None:
    roomy = replace(context, traced=_Cramped(room=20))
    list(tuning(roomy).train(0))
    context.restore()
    first = tuning(roomy, dropout=0.2)
    list(first.train(0))
    expected = first.weights()
    cramped = _Cramped(room=5)
    context.restore()
    list(tuning(replace(context, traced=cramped)).train(0))
    context.restore()
    cramped.images = 20
    second = tuning(replace(context, traced=cramped), dropout=0.2)
    list(second.train(0))
    assert all((found == wanted).all() for found, wanted in zip(second.weights(), expected, strict=True))


def test_too_little_memory_for_one_image_is_reported_with_a_remedy(context: StudyContext) -> None:
    with pytest.raises(
        errors.TrainingError, match=r"out of memory: cannot train 3 of 3 blocks at 16 pixels, even with one image.*Lower unfreeze"
    ) as caught:
        list(tuning(replace(context, traced=_Cramped(room=0))).train(0))
    assert caught.value.kind == "OutOfMemory"


class _Cramped(steps.TracedSteps):
    """Has memory for the gradients of a limited number of images at once."""

    def __init__(self, *, room: int) -> None:
        super().__init__()
        self.images = room
        self.seen: list[int] = []

    def slope(self, cut: cuts.Cut, form: steps.StepForm, **given: Any) -> Callable[..., Any]:
        whole = super().slope(cut, form, **given)

        def slope(lower: Any, answers: Any, *rest: Any) -> Any:
            self.seen.append(len(answers[1]))
            if self.seen[-1] > self.images:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return whole(lower, answers, *rest)

        return slope
