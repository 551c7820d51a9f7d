"""Optimizers: learning rates, the rules of Keras, and updates of a head and of open blocks."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.kernels import optimizers
from tuner.spec.hyperparameters import Hyperparameters, Optimizer


def test_the_rate_rises_in_a_line_and_falls_in_a_half_cosine() -> None:
    found = optimizers.cosine(100, peak=2.0, warmup=0.2)
    assert found.shape == (100,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20 * 2.0, rtol=1e-6)
    assert found[0] == pytest.approx(0.1)
    assert found[19] == found[20] == found.max() == pytest.approx(2.0)
    assert found[60] == pytest.approx(1.0)
    assert (np.diff(found[20:]) < 0).all()
    assert 0 < found[-1] < 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (3, 0.125), (7, 0.9)])
def test_a_short_schedule_has_a_positive_rate_at_each_step(steps: int, warmup: float) -> None:
    found = optimizers.cosine(steps, peak=0.1, warmup=warmup)
    assert len(found) == steps
    assert (found > 0).all()
    assert found.max() == pytest.approx(0.1)


def test_without_warmup_the_first_step_is_the_peak() -> None:
    assert optimizers.cosine(10, peak=0.3, warmup=0.0)[0] == pytest.approx(0.3)


GRADIENTS = [np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32) for number in range(5)]


KERAS = {
    Optimizer.SGD: keras.optimizers.SGD,
    Optimizer.ADAM: keras.optimizers.Adam,
    Optimizer.ADAMW: keras.optimizers.AdamW,
    Optimizer.NADAM: keras.optimizers.Nadam,
    Optimizer.ADAMAX: keras.optimizers.Adamax,
    Optimizer.ADAGRAD: keras.optimizers.Adagrad,
    Optimizer.ADADELTA: keras.optimizers.Adadelta,
    Optimizer.RMSPROP: keras.optimizers.RMSprop,
    Optimizer.LION: keras.optimizers.Lion,
}


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("optimizer", Optimizer)
def test_every_optimizer_steps_as_in_keras(optimizer: Optimizer, nesterov: bool) -> None:
    start = np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32)
    options = {"momentum": 0.7} if optimizer.has_momentum else {}
    options |= {"nesterov": nesterov} if optimizer is Optimizer.SGD else {}
    trusted, known = KERAS[optimizer](learning_rate=0.0, weight_decay=0.1, **options), keras.Variable(start)
    own, remembered = tf.Variable(start), [tf.Variable(value) for value in optimizers.initial_slots(optimizer, start)]
    for number, gradient in enumerate(GRADIENTS, start=1):
        trusted.learning_rate.assign(0.05 / number)
        trusted.apply([tf.constant(gradient)], [known])
        step = optimizers.OptimizerStep(
            rate=tf.constant(0.05 / number),
            number=tf.constant(float(number)),
            momentum=tf.constant(0.7),
            weight_decay=tf.constant(0.1),
            nesterov=nesterov,
        )
        optimizers.apply(optimizer, own, tf.constant(gradient), remembered, step)
    np.testing.assert_allclose(own.numpy(), known.numpy(), rtol=2e-4, atol=2e-6)


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


def test_a_lower_block_takes_a_smaller_step() -> None:
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
def test_a_trial_does_not_depend_on_earlier_use_of_its_update(kind: Optimizer) -> None:
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
