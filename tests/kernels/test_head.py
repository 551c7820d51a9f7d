"""The head of a network, alone and with others side by side."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import head
from tuner.spec.hyperparameters import LOSSES, Activation, Hyperparameters, Loss, Optimizer, TargetKind

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(3, 5, (200, 6)).astype(np.float32)
FEATURES[:, 5] = 1.0  # a feature that is always the same
MOMENTS = head.measure_moments(FEATURES)


def built(weights: Sequence[NDArray[np.float32]], given: Hyperparameters) -> keras.Sequential:
    """The same head as a Keras model of features that are not standardized."""
    layers = [keras.layers.Normalization(mean=MOMENTS[0], variance=MOMENTS[1])]
    layers += [keras.layers.Dense(units, given.activation.value) for units in given.head_units]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(4)])
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    return model


def test_features_are_brought_to_mean_0_and_variance_1() -> None:
    normal = head.standardize(FEATURES, MOMENTS).numpy()
    np.testing.assert_allclose(normal.mean(0), np.zeros(6), atol=1e-4)
    np.testing.assert_allclose(normal[:, :5].std(0), np.ones(5), rtol=1e-4)
    assert np.isfinite(normal).all()


def test_a_feature_that_is_constant_in_training_does_not_outweigh_the_others_elsewhere() -> None:
    other = FEATURES[:1].copy()
    other[0, 5] += 1.0
    widths = (3, 3)
    own = head.standardize(other, MOMENTS).numpy()
    found = head.standardize(other, head.floored(MOMENTS, 0.3, widths=widths)).numpy()
    assert own[0, 5] == pytest.approx(1000)
    usual = np.sqrt(MOMENTS[1][3:].mean())
    assert found[0, 5] == pytest.approx(1 / (0.3 * usual))
    np.testing.assert_array_equal(found[:, :5], own[:, :5])


def test_a_floor_depends_only_on_the_features_of_its_layer() -> None:
    mean, variance = np.zeros(6, np.float32), np.array([1, 1, 1e-6, 1e4, 1e4, 1e-6], np.float32)
    _, found = head.floored((mean, variance), 0.1, widths=(3, 3))
    np.testing.assert_allclose(found, [1, 1, 0.02 / 3, 1e4, 1e4, 200 / 3], rtol=1e-4)
    assert head.floored((mean, variance), 0.0, widths=(3, 3)) == (mean, variance)


@pytest.mark.parametrize("units", [(), (8,), (8, 5), (8, 5, 3)])
@pytest.mark.parametrize("activation", Activation)
def test_a_head_is_the_dense_layers_of_keras(units: tuple[int, ...], activation: Activation) -> None:
    given = Hyperparameters(head_units=units, activation=activation)
    weights = head.initial_weights(given, 6, 4, seed=3)
    weights[1] += 0.5
    found = head.forward(weights, head.standardize(FEATURES, MOMENTS), activation=activation)
    assert found.shape == (200, 4)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, built(weights, given)(FEATURES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("units", "shapes"), [((), [(6, 4)]), ((8,), [(6, 8), (8, 4)]), ((8, 5, 3), [(6, 8), (8, 5), (5, 3), (3, 4)])])
def test_a_head_has_the_requested_layers(units: tuple[int, ...], shapes: list[tuple[int, int]]) -> None:
    weights = head.initial_weights(Hyperparameters(head_units=units), 6, 4, seed=1)
    assert [weight.shape for weight in weights[::2]] == shapes
    assert [weight.shape for weight in weights[1::2]] == [(shape[1],) for shape in shapes]


def test_equal_seeds_give_equal_weights_and_different_seeds_different_ones() -> None:
    first, second, other = (head.initial_weights(Hyperparameters(head_units=(8,)), 6, 4, seed=seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, second, strict=True))
    assert all((one != two).any() for one, two in zip(first[::2], other[::2], strict=True))


def test_masks_act_on_the_inputs_of_each_layer() -> None:
    weights = head.initial_weights(Hyperparameters(head_units=(8,)), 6, 4, seed=1)
    x, masks = head.standardize(FEATURES, MOMENTS), [np.full((200, width), 2.0, np.float32) for width in (6, 8)]
    hidden = np.maximum((x.numpy() * 2) @ weights[0] + weights[1], 0) * 2
    found = head.forward(weights, x, activation="relu", masks=masks)
    np.testing.assert_allclose(found, hidden @ weights[2] + weights[3], rtol=1e-4, atol=1e-5)


def test_logits_of_heads_side_by_side_equal_those_of_each_alone() -> None:
    given = Hyperparameters(head_units=(8,))
    heads = [head.initial_weights(given, 6, 4, seed=seed) for seed in (1, 2, 3)]
    stacked = [np.stack(layer) if layer[0].ndim == 2 else np.stack(layer)[:, None] for layer in zip(*heads, strict=True)]
    x = head.standardize(FEATURES, MOMENTS)
    masks = [np.random.default_rng(0).integers(0, 3, (200, width)).astype(np.float32) for width in (6, 8)]
    for given_masks in (None, masks):
        together = head.forward(stacked, x, activation="relu", masks=given_masks)
        assert together.shape == (3, 200, 4)
        repeated = head.forward(stacked, tf.stack([x] * 3), activation="relu", masks=given_masks)
        for number, alone in enumerate(heads):
            expected = head.forward(alone, x, activation="relu", masks=given_masks)
            np.testing.assert_allclose(together[number], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(repeated[number], expected, rtol=1e-4, atol=1e-5)


NUM_CLASSES, NUM_IMAGES = 3, 48
GIVEN = {"probe_learning_rate": 0.02, "dropout": 0.25, "weight_decay": 0.01, "label_smoothing": 0.1}
_RANDOM = np.random.default_rng(0)
LABELS = _RANDOM.integers(NUM_CLASSES, size=NUM_IMAGES)
ORDER = np.stack([np.random.default_rng(number).permutation(NUM_IMAGES)[:16] for number in range(12)])


def table(width: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.random.default_rng(width).normal(size=(NUM_IMAGES, width)).astype(np.float32)
    found[np.arange(NUM_IMAGES), LABELS] += 2.0
    return found


def train(rates: Sequence[float], *, width: int = 8, order: NDArray[np.int64] = ORDER, **given: Any) -> tuple[head.HeadsProgram, Any]:
    hyperparameters = Hyperparameters.model_validate(GIVEN | given)
    program = head.program_for(head.HeadForm.of(hyperparameters, num_classes=NUM_CLASSES, num_heads=len(rates)))
    program.begin(head.initial_weights(hyperparameters, width, NUM_CLASSES, seed=3))
    values = head.values(hyperparameters, class_weights=np.ones(NUM_CLASSES), clip=1.0, seed=5)
    steps = np.tile(np.array(rates, np.float32), (len(order), 1))
    return program, program.train(tf.constant(table(width)), tf.constant(LABELS, tf.int32), order, steps, first=0, given=values)


@pytest.mark.parametrize("head_units", [(), (7,), (6, 5)])
@pytest.mark.parametrize("optimizer", [Optimizer.ADAMW, Optimizer.SGD, Optimizer.LION, Optimizer.NADAM])
def test_heads_trained_side_by_side_equal_heads_trained_alone(optimizer: Optimizer, head_units: tuple[int, ...]) -> None:
    rates = [0.01, 0.02, 0.005]
    together, (loss, accuracy) = train(rates, optimizer=optimizer, head_units=head_units)
    found = [together.weights(number) for number in range(3)]
    for number, rate in enumerate(rates):
        alone, (own_loss, own_accuracy) = train([rate], optimizer=optimizer, head_units=head_units)
        np.testing.assert_allclose(own_loss, loss[number : number + 1], rtol=1e-4)
        np.testing.assert_allclose(own_accuracy, accuracy[number : number + 1], atol=0.01)
        for value, own in zip(found[number], alone.weights(0), strict=True):
            np.testing.assert_allclose(own, value, rtol=1e-3, atol=1e-4)


def test_a_head_that_diverges_affects_no_other() -> None:
    together, (loss, _) = train([0.02, 1e30], optimizer="sgd", head_units=(6,))
    assert np.isfinite(loss[0])
    assert not np.isfinite(loss[1])
    alone, _ = train([0.02], optimizer="sgd", head_units=(6,))
    for value, own in zip(together.weights(0), alone.weights(0), strict=True):
        np.testing.assert_allclose(own, value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("loss", "activation"),
    [*((loss, Activation.RELU) for loss in LOSSES[TargetKind.LABEL]), *((Loss.CROSS_ENTROPY, activation) for activation in Activation)],
)
def test_every_loss_and_activation_is_trained(loss: Loss, activation: Activation) -> None:
    program, _ = train([0.01], loss=loss, activation=activation, head_units=(6,), dropout=0.0)
    logits = program.predict(tf.constant(table(8)))
    assert (logits[0].argmax(1) == LABELS).mean() > 0.6


def test_other_widths_and_values_trace_nothing() -> None:
    program, _ = train([0.02], head_units=(7,))
    program.predict(tf.constant(table(8)))
    before = program.num_traced
    same, _ = train([0.5], head_units=(31,), width=19, order=ORDER[:5, :3], dropout=0.6, label_smoothing=0.0, weight_decay=0.0)
    same.predict(tf.constant(table(19)))
    assert same is program
    assert same.num_traced == before


def test_a_trial_does_not_depend_on_earlier_use_of_its_program() -> None:
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
    whole.begin(head.initial_weights(hyperparameters, 8, NUM_CLASSES, seed=3))
    values = head.values(hyperparameters, class_weights=np.ones(NUM_CLASSES), clip=1.0, seed=5)
    for first in (0, 6):
        steps = np.full((6, 1), 0.02, np.float32)
        order = ORDER[first : first + 6]
        whole.train(tf.constant(table(8)), tf.constant(LABELS, tf.int32), order, steps, first=first, given=values)
    assert all((own == value).all() for own, value in zip(whole.weights(0), weights, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_has_its_rate_and_keeps_the_mean(rate: float) -> None:
    kernel = tf.zeros((400, 2))
    [mask] = head.masks([kernel, tf.zeros(2)], tf.constant(500), tf.constant(rate), tf.constant(1), tf.constant(1))
    assert float(tf.reduce_mean(tf.cast(mask == 0, tf.float32))) == pytest.approx(rate, abs=0.005)
    assert float(tf.reduce_mean(mask)) == pytest.approx(1.0, abs=0.02)
