"""The head and the top of the backbone together."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

from tests.training.conftest import study
from tuner.hyperparameters import Hyperparameters
from tuner.training import bench as benches
from tuner.training import fine_tune, head

GOOD = {"learning_rate": 1e-2, "batch_size": 20, "dropout": 0.0, "unfreeze": 1.0}


def tuning(bench: benches.Bench, **given: Any) -> tuple[fine_tune.FineTuning, keras.Sequential]:
    hyperparameters = Hyperparameters.model_validate(GOOD | given)
    top = head.build(hyperparameters, bench.moments, bench.num_classes, seed=1)
    return fine_tune.FineTuning(bench, top, hyperparameters, seed=1), top


def logits(bench: benches.Bench, top: keras.Sequential) -> np.ndarray:
    return fine_tune.predictor(bench, top)(bench.data.validation.images)


def test_the_whole_network_learns(bench: benches.Bench) -> None:
    stage, _ = tuning(replace(bench, epochs=8))
    losses = []
    for epoch in range(8):
        assert len(list(stage.train(epoch))) == 5
        losses.append(stage.measure(epoch).loss)
    assert losses[-1] < losses[0] / 2


def test_the_prediction_is_the_head_on_the_features(bench: benches.Bench) -> None:
    _, top = tuning(bench)
    expected = top(bench.validation_features, training=False)
    np.testing.assert_allclose(logits(bench, top), expected, rtol=1e-4, atol=1e-4)


def test_the_running_average_is_measured_and_the_training_goes_on_from_the_weights(bench: benches.Bench) -> None:
    stage, top = tuning(bench, ema=0.5)
    start = [variable.numpy() for variable in stage.variables]
    steps = stage.train(0)
    averages = start
    for _ in range(3):
        next(steps)
        averages = [0.5 * old + 0.5 * variable.numpy() for old, variable in zip(averages, stage.variables, strict=True)]
    for found, expected in zip(stage.weights(), averages, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    trained = [variable.numpy() for variable in stage.variables]
    measured = stage.measure(0)
    assert all((variable.numpy() == value).all() for variable, value in zip(stage.variables, trained, strict=True))
    fine_tune.assign(stage.variables, stage.weights())
    assert (logits(bench, top).argmax(1) == bench.data.validation.labels).mean() == measured.validation.accuracy


def test_without_an_average_the_weights_themselves_are_measured(bench: benches.Bench) -> None:
    stage, _ = tuning(bench)
    list(stage.train(0))
    assert all((found == variable.numpy()).all() for found, variable in zip(stage.weights(), stage.variables, strict=True))


@pytest.mark.parametrize(("batch_size", "steps"), [(100, 1), (4096, 1), (30, 3)])
def test_an_epoch_has_as_many_steps_as_there_are_whole_batches(bench: benches.Bench, batch_size: int, steps: int) -> None:
    stage, _ = tuning(bench, batch_size=batch_size)
    assert len(list(stage.train(0))) == steps
    assert np.isfinite(stage.measure(0).loss)


def test_a_block_further_down_is_trained_with_a_smaller_rate(bench: benches.Bench) -> None:
    stage, _ = tuning(bench, layer_decay=0.01, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, warmup=0.0)
    before = {variable.path: variable.numpy() for variable in stage.variables}
    list(stage.train(0))
    moved = {variable.path: np.abs(variable.numpy() - before[variable.path]).max() for variable in stage.variables}
    lowest, highest = (max(length for path, length in moved.items() if name in path) for name in ("conv1/kernel", "conv3/kernel"))
    assert 0 < lowest < highest < max(length for path, length in moved.items() if "logits" in path)


def test_the_gradients_are_clipped_as_the_study_says(bench: benches.Bench) -> None:
    still = replace(bench, study=study(training={"probe_epochs": 1, "epochs": 2, "gradient_clip": 1e-12}))
    stage, _ = tuning(still, optimizer="sgd", weight_decay=0.0)
    before = [variable.numpy() for variable in stage.variables]
    list(stage.train(0))
    assert max(np.abs(variable.numpy() - value).max() for variable, value in zip(stage.variables, before, strict=True)) < 1e-9
