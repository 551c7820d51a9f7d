"""Heads side by side, on random features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import head
from tuner.spec.hyperparameters import Activation, Hyperparameters, Loss, Optimizer

NUM_CLASSES, NUM_IMAGES = 3, 48
GIVEN = {"probe_learning_rate": 0.02, "dropout": 0.25, "weight_decay": 0.01, "label_smoothing": 0.1}
_RANDOM = np.random.default_rng(0)
LABELS = _RANDOM.integers(NUM_CLASSES, size=NUM_IMAGES)
ORDER = np.stack([np.random.default_rng(number).permutation(NUM_IMAGES)[:16] for number in range(12)])


def table(width: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.random.default_rng(width).normal(size=(NUM_IMAGES, width)).astype(np.float32)
    found[np.arange(NUM_IMAGES), LABELS] += 2.0
    return found


def train(rates: Sequence[float], *, width: int = 8, order: NDArray[np.int64] = ORDER, **given: Any) -> tuple[head.Program, Any]:
    hyperparameters = Hyperparameters.model_validate(GIVEN | given)
    program = head.program(head.HeadForm.of(hyperparameters, num_classes=NUM_CLASSES, num_heads=len(rates)))
    program.begin(head.initial(hyperparameters, width, NUM_CLASSES, seed=3))
    values = head.values(hyperparameters, class_weights=np.ones(NUM_CLASSES), clip=1.0, seed=5)
    steps = np.tile(np.array(rates, np.float32), (len(order), 1))
    return program, program.train(tf.constant(table(width)), tf.constant(LABELS, tf.int32), order, steps, first=0, given=values)


@pytest.mark.parametrize("head_units", [(), (7,), (6, 5)])
@pytest.mark.parametrize("optimizer", [Optimizer.ADAMW, Optimizer.SGD, Optimizer.LION, Optimizer.NADAM])
def test_heads_side_by_side_come_out_as_one_at_a_time(optimizer: Optimizer, head_units: tuple[int, ...]) -> None:
    rates = [0.01, 0.02, 0.005]
    together, (loss, accuracy) = train(rates, optimizer=optimizer, head_units=head_units)
    found = [together.weights(number) for number in range(3)]
    for number, rate in enumerate(rates):
        alone, (own_loss, own_accuracy) = train([rate], optimizer=optimizer, head_units=head_units)
        np.testing.assert_allclose(own_loss, loss[number : number + 1], rtol=1e-4)
        np.testing.assert_allclose(own_accuracy, accuracy[number : number + 1], atol=0.01)
        for value, own in zip(found[number], alone.weights(0), strict=True):
            np.testing.assert_allclose(own, value, rtol=1e-3, atol=1e-4)


def test_a_head_that_is_not_finite_spoils_no_other() -> None:
    together, (loss, _) = train([0.02, 1e30], optimizer="sgd", head_units=(6,))
    assert np.isfinite(loss[0])
    assert not np.isfinite(loss[1])
    alone, _ = train([0.02], optimizer="sgd", head_units=(6,))
    for value, own in zip(together.weights(0), alone.weights(0), strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "activation"),
    [*((loss, Activation.RELU) for loss in Loss), *((Loss.CROSS_ENTROPY, activation) for activation in Activation)],
)
def test_every_loss_and_activation_is_trained(loss: Loss, activation: Activation) -> None:
    program, _ = train([0.01], loss=loss, activation=activation, head_units=(6,), dropout=0.0)
    logits = program.predict(tf.constant(table(8)))
    assert (logits[0].argmax(1) == LABELS).mean() > 0.6


def test_nothing_is_traced_anew_for_other_widths_and_values() -> None:
    program, _ = train([0.02], head_units=(7,))
    program.predict(tf.constant(table(8)))
    before = program.num_traced
    same, _ = train([0.5], head_units=(31,), width=19, order=ORDER[:5, :3], dropout=0.6, label_smoothing=0.0, weight_decay=0.0)
    same.predict(tf.constant(table(19)))
    assert same is program
    assert same.num_traced == before


def test_a_trial_comes_out_the_same_after_another_that_used_the_program() -> None:
    program, first = train([0.02], head_units=(7,), optimizer="nadam")
    weights = program.weights(0)
    train([0.5], head_units=(20,), width=11, optimizer="nadam")
    _, again = train([0.02], head_units=(7,), optimizer="nadam")
    assert [list(found) for found in again] == [list(found) for found in first]
    assert all((own == value).all() for own, value in zip(program.weights(0), weights, strict=True))


def test_steps_in_two_calls_are_the_steps_of_one() -> None:
    whole, _ = train([0.02], order=ORDER)
    weights = whole.weights(0)
    hyperparameters = Hyperparameters.model_validate(GIVEN)
    whole.begin(head.initial(hyperparameters, 8, NUM_CLASSES, seed=3))
    values = head.values(hyperparameters, class_weights=np.ones(NUM_CLASSES), clip=1.0, seed=5)
    for first in (0, 6):
        steps = np.full((6, 1), 0.02, np.float32)
        order = ORDER[first : first + 6]
        whole.train(tf.constant(table(8)), tf.constant(LABELS, tf.int32), order, steps, first=first, given=values)
    assert all((own == value).all() for own, value in zip(whole.weights(0), weights, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_keeps_its_part_and_the_mean(rate: float) -> None:
    kernel = tf.zeros((400, 2))
    [mask] = head.masks([kernel, tf.zeros(2)], tf.constant(500), tf.constant(rate), tf.constant(1), tf.constant(1))
    assert float(tf.reduce_mean(tf.cast(mask == 0, tf.float32))) == pytest.approx(rate, abs=0.005)
    assert float(tf.reduce_mean(mask)) == pytest.approx(1.0, abs=0.02)
