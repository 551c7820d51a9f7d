"""The nine optimizers, their rates and what weight decay leaves alone."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.hyperparameters import Hyperparameters, Optimizer
from tuner.training import optimizers

#: rates with which each takes a small quadratic down in a few hundred steps
RATES = {
    Optimizer.SGD: 0.05,
    Optimizer.ADAGRAD: 1.0,
    Optimizer.ADADELTA: 20.0,
    Optimizer.LION: 0.01,
    Optimizer.RMSPROP: 0.005,
}
FREE = {"weight_decay": 0.0, "nesterov": False, "momentum": 0.0}


def variable(*shape: int, value: float = 1.0) -> keras.Variable:
    return keras.Variable(np.full(shape, value, np.float32))


def build(given: dict[str, Any], variables: list[tuple[int, keras.Variable]], *, rate: float, clip: float = 1e9) -> keras.Optimizer:
    optimizer = optimizers.build(Hyperparameters.model_validate(given), variables, gradient_clip=clip)
    optimizer.learning_rate.assign(rate)
    return optimizer


@pytest.mark.parametrize("kind", Optimizer)
def test_every_optimizer_takes_a_quadratic_down(kind: Optimizer) -> None:
    kernel, bias = variable(2, 3), variable(3, value=-2.0)
    optimizer = build({"optimizer": kind, "weight_decay": 0.0}, [(0, kernel), (0, bias)], rate=RATES.get(kind, 0.1))

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> None:
        optimizer.apply([kernel.value, bias.value])

    for _ in range(150):
        step()
    assert np.abs(kernel.numpy()).max() < 0.5
    assert np.abs(bias.numpy()).max() < 1.0


@pytest.mark.parametrize("kind", Optimizer)
def test_weight_decay_shrinks_kernels_and_leaves_biases_alone(kind: Optimizer) -> None:
    kernel, bias = variable(2, 2), variable(2)
    optimizer = build({"optimizer": kind, "weight_decay": 0.5}, [(0, kernel), (0, bias)], rate=0.1)
    optimizer.apply([np.zeros((2, 2), np.float32), np.zeros(2, np.float32)])
    np.testing.assert_allclose(kernel.numpy(), np.full((2, 2), 0.95), rtol=1e-6)
    assert bias.numpy().tolist() == [1, 1]


def test_a_block_further_down_takes_a_step_smaller_by_the_decay() -> None:
    blocks = [variable(2, 2) for _ in range(4)]
    given = FREE | {"optimizer": "sgd", "layer_decay": 0.5}
    optimizer = build(given, list(enumerate(blocks)), rate=0.1)
    optimizer.apply([np.ones((2, 2), np.float32) for _ in blocks])
    steps = [1 - float(block.numpy()[0, 0]) for block in blocks]
    np.testing.assert_allclose(steps, [0.1 * 0.5**depth for depth in range(4)], rtol=1e-5)


def test_a_block_further_down_is_shrunk_less_by_the_decay() -> None:
    blocks = [variable(2, 2) for _ in range(3)]
    optimizer = build({"optimizer": "sgd", "weight_decay": 0.5, "layer_decay": 0.5}, list(enumerate(blocks)), rate=0.1)
    optimizer.apply([np.zeros((2, 2), np.float32) for _ in blocks])
    shrunk = [1 - float(block.numpy()[0, 0]) for block in blocks]
    np.testing.assert_allclose(shrunk, [0.05 * 0.5**depth for depth in range(3)], rtol=1e-5)


def test_the_gradients_are_clipped_by_their_common_norm() -> None:
    blocks = [variable(1, 1, value=0.0), variable(1, 1, value=0.0)]
    optimizer = build(FREE | {"optimizer": "sgd"}, [(0, block) for block in blocks], rate=1.0, clip=1.0)
    optimizer.apply([np.array([[3.0]], np.float32), np.array([[4.0]], np.float32)])
    np.testing.assert_allclose([float(block.numpy()[0, 0]) for block in blocks], [-0.6, -0.8], rtol=1e-6)


def test_momentum_acts_on_sgd_as_nesterov_has_it() -> None:
    plain, ahead = variable(1, 1, value=0.0), variable(1, 1, value=0.0)
    for nesterov, place in ((False, plain), (True, ahead)):
        optimizer = build({"optimizer": "sgd", "weight_decay": 0.0, "momentum": 0.5, "nesterov": nesterov}, [(0, place)], rate=1.0)
        for _ in range(2):
            optimizer.apply([np.array([[1.0]], np.float32)])
    # velocities 1 and 1.5; the look-ahead adds half of the velocity to each step
    assert float(plain.numpy()[0, 0]) == pytest.approx(-2.5)
    assert float(ahead.numpy()[0, 0]) == pytest.approx(-(1 + 0.5 + 1 + 0.75))


def test_the_rate_rises_in_a_line_and_falls_in_a_half_cosine() -> None:
    rates = optimizers.cosine(100, peak=2.0, warmup=0.2)
    assert rates.shape == (100,)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20 * 2.0, rtol=1e-6)
    assert rates[0] == pytest.approx(0.1)
    assert rates[19] == rates[20] == rates.max() == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0)
    assert (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (3, 0.125), (7, 0.9)])
def test_a_short_schedule_has_a_positive_rate_at_each_step(steps: int, warmup: float) -> None:
    rates = optimizers.cosine(steps, peak=0.1, warmup=warmup)
    assert len(rates) == steps
    assert (rates > 0).all()
    assert rates.max() == pytest.approx(0.1)


def test_without_warmup_the_first_step_is_the_peak() -> None:
    assert optimizers.cosine(10, peak=0.3, warmup=0.0)[0] == pytest.approx(0.3)
