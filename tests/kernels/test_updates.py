"""What gradients do to the weights of a head and of open blocks."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.kernels import optimizers
from tuner.spec.hyperparameters import Hyperparameters, Optimizer

FREE = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False, "optimizer": "sgd"}
HEAD = [np.ones((2, 3), np.float32), np.ones(3, np.float32)]


def blocks(count: int) -> list[keras.Variable]:
    return [keras.Variable(np.ones((2, 2), np.float32)) for _ in range(count)]


def begun(given: dict[str, Any], opened: list[keras.Variable]) -> tuple[optimizers.Update, Hyperparameters]:
    hyperparameters = Hyperparameters.model_validate(given)
    update = optimizers.Update(optimizers.UpdateForm.of(hyperparameters, num_open=len(opened)), list(enumerate(opened)), trace=tf.function)
    update.begin(HEAD)
    return update, hyperparameters


def step(update: optimizers.Update, given: Hyperparameters, gradient: float, *, rate: float, clip: float = 1e9, number: int = 1) -> None:
    gradients = [
        tf.fill(variable.shape if variable.shape.is_fully_defined() else tf.shape(variable), gradient) for variable in update.variables
    ]
    update.apply(gradients, rate=rate, number=number, given=optimizers.values(given, gradient_clip=clip))


def test_a_block_further_down_takes_a_step_smaller_by_the_decay() -> None:
    update, given = begun(FREE | {"layer_decay": 0.5}, blocks(3))
    step(update, given, 1.0, rate=0.1)
    np.testing.assert_allclose([1 - variable.numpy().max() for variable in update.variables], [0.1, 0.1, 0.05, 0.025, 0.0125], rtol=1e-4)


@pytest.mark.parametrize("kind", Optimizer)
def test_weight_decay_shrinks_kernels_by_the_rate_of_their_block_and_leaves_biases_alone(kind: Optimizer) -> None:
    update, given = begun({"optimizer": kind, "weight_decay": 0.5, "layer_decay": 0.5}, blocks(2))
    step(update, given, 0.0, rate=0.1)
    np.testing.assert_allclose([1 - variable.numpy().max() for variable in update.variables], [0.05, 0.0, 0.025, 0.0125], rtol=1e-4)


def test_the_gradients_are_clipped_by_their_common_norm() -> None:
    update, given = begun(FREE, blocks(1))
    step(update, given, 1.0, rate=1.0, clip=1.0)
    assert all(variable.numpy().max() == pytest.approx(1 - 1 / np.sqrt(6 + 3 + 4), rel=1e-5) for variable in update.variables)


@pytest.mark.parametrize("kind", Optimizer)
def test_a_trial_that_begins_on_a_used_update_goes_as_on_a_new_one(kind: Optimizer) -> None:
    trials = [
        {"optimizer": kind, "momentum": m, "weight_decay": d, "layer_decay": d + 0.5, "ema": 0.5 + d} for m, d in ((0.9, 0.0), (0.0, 0.3))
    ]
    opened = blocks(2)
    used, _ = begun(trials[0], opened)
    for trial in trials:
        values = []
        for update in (begun(trial, opened)[0], used):
            for block in opened:
                block.assign(np.ones((2, 2), np.float32))
            update.begin(HEAD)
            for number in range(1, 5):
                step(update, Hyperparameters.model_validate(trial), 0.5, rate=0.1, number=number)
            values.append([variable.numpy() for variable in update.state])
        assert all((found == wanted).all() for found, wanted in zip(*values, strict=True))
