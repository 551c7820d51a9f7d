"""The new top of a network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.hyperparameters import Activation, Hyperparameters
from tuner.training import head

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(3, 5, (200, 6)).astype(np.float32)
FEATURES[:, 5] = 1.0  # a feature that is always the same
MOMENTS = (FEATURES.mean(0), FEATURES.var(0))


def build(seed: int = 1, **given: object) -> keras.Sequential:
    hyperparameters = Hyperparameters.model_validate(given)
    return head.model(hyperparameters, MOMENTS, 4, head.initial(hyperparameters, 6, 4, seed=seed))


def test_features_are_brought_to_mean_0_and_variance_1() -> None:
    [normalization] = [layer for layer in build().layers if isinstance(layer, keras.layers.Normalization)]
    normal = keras.ops.convert_to_numpy(normalization(FEATURES))
    np.testing.assert_allclose(normal.mean(0), np.zeros(6), atol=1e-4)
    np.testing.assert_allclose(normal[:, :5].std(0), np.ones(5), rtol=1e-4)
    assert np.isfinite(normal).all()


@pytest.mark.parametrize(("units", "shapes"), [((), [(6, 4)]), ((8,), [(6, 8), (8, 4)]), ((8, 5, 3), [(6, 8), (8, 5), (5, 3), (3, 4)])])
def test_layers_are_as_many_and_as_wide_as_asked_for(units: tuple[int, ...], shapes: list[tuple[int, int]]) -> None:
    built = build(head_units=units)
    assert [variable.shape for variable in built.trainable_variables if len(variable.shape) == 2] == shapes
    assert built(FEATURES).shape == (200, 4)


@pytest.mark.parametrize("activation", Activation)
def test_every_activation_is_one_of_keras(activation: Activation) -> None:
    built = build(head_units=(8,), activation=activation)
    assert np.isfinite(built(FEATURES).numpy()).all()


def test_there_is_a_dropout_before_each_layer_and_none_at_rate_0() -> None:
    rates = [layer.rate for layer in build(head_units=(8, 8), dropout=0.4).layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.4] * 3
    assert not [layer for layer in build(dropout=0.0).layers if isinstance(layer, keras.layers.Dropout)]


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    first, second, other = build(1, head_units=(8,)), build(1, head_units=(8,)), build(2, head_units=(8,))
    assert (first(FEATURES).numpy() == second(FEATURES).numpy()).all()
    assert (first(FEATURES).numpy() != other(FEATURES).numpy()).any()


def test_dropout_acts_in_training_alone() -> None:
    built = build(dropout=0.5)
    assert (built(FEATURES).numpy() == built(FEATURES, training=False).numpy()).all()
    assert (built(FEATURES, training=True).numpy() != built(FEATURES).numpy()).any()


@pytest.mark.parametrize("units", [(), (8,), (8, 5)])
@pytest.mark.parametrize("activation", Activation)
def test_the_exportable_model_equals_the_forward_pass_on_standardized_features(units: tuple[int, ...], activation: Activation) -> None:
    given = Hyperparameters(head_units=units, activation=activation, dropout=0.4)
    weights = head.initial(given, 6, 4, seed=3)
    weights[1] += 0.5
    model = head.model(given, MOMENTS, 4, weights)
    expected = model(FEATURES).numpy()
    found = head.forward(weights, head.standardize(FEATURES, MOMENTS), activation=activation)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


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
