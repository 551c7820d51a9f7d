"""The new top of a network."""

from collections.abc import Sequence

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import head
from tuner.spec.hyperparameters import Activation, Hyperparameters

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(3, 5, (200, 6)).astype(np.float32)
FEATURES[:, 5] = 1.0  # a feature that is always the same
MOMENTS = head.measure(FEATURES)


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


@pytest.mark.parametrize("units", [(), (8,), (8, 5), (8, 5, 3)])
@pytest.mark.parametrize("activation", Activation)
def test_a_head_is_the_dense_layers_of_keras(units: tuple[int, ...], activation: Activation) -> None:
    given = Hyperparameters(head_units=units, activation=activation)
    weights = head.initial(given, 6, 4, seed=3)
    weights[1] += 0.5
    found = head.forward(weights, head.standardize(FEATURES, MOMENTS), activation=activation)
    assert found.shape == (200, 4)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, built(weights, given)(FEATURES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("units", "shapes"), [((), [(6, 4)]), ((8,), [(6, 8), (8, 4)]), ((8, 5, 3), [(6, 8), (8, 5), (5, 3), (3, 4)])])
def test_layers_are_as_many_and_as_wide_as_asked_for(units: tuple[int, ...], shapes: list[tuple[int, int]]) -> None:
    weights = head.initial(Hyperparameters(head_units=units), 6, 4, seed=1)
    assert [weight.shape for weight in weights[::2]] == shapes
    assert [weight.shape for weight in weights[1::2]] == [(shape[1],) for shape in shapes]


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    first, second, other = (head.initial(Hyperparameters(head_units=(8,)), 6, 4, seed=seed) for seed in (1, 1, 2))
    assert all((one == two).all() for one, two in zip(first, second, strict=True))
    assert all((one != two).any() for one, two in zip(first[::2], other[::2], strict=True))


def test_masks_act_on_the_inputs_of_each_layer() -> None:
    weights = head.initial(Hyperparameters(head_units=(8,)), 6, 4, seed=1)
    x, masks = head.standardize(FEATURES, MOMENTS), [np.full((200, width), 2.0, np.float32) for width in (6, 8)]
    hidden = np.maximum((x.numpy() * 2) @ weights[0] + weights[1], 0) * 2
    found = head.forward(weights, x, activation="relu", masks=masks)
    np.testing.assert_allclose(found, hidden @ weights[2] + weights[3], rtol=1e-4, atol=1e-5)


def test_heads_side_by_side_give_what_each_gives_alone() -> None:
    given = Hyperparameters(head_units=(8,))
    heads = [head.initial(given, 6, 4, seed=seed) for seed in (1, 2, 3)]
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
