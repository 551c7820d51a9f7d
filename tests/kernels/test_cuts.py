"""A network cut at any block, and its features of several depths, compared with the whole network."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.images.training import networks
from tuner.kernels import cuts
from tuner.spec.hyperparameters import Features
from tuner.tasks.images.training import backbones, inverted_residuals, squeezenet

# Keras itself reads its variables in a way that NumPy is going to give up
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = 32
LITE0, MOBILENET = (inverted_residuals.NETWORKS[name] for name in ("efficientnet_lite0", "mobilenet_v2"))
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.float32)


class Closed(keras.Model):  # type: ignore[misc]
    """A model that defines its own `call`."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return super().call(inputs, training=training) * 2


def own(module: Any) -> backbones.Backbone:
    network, blocks = module.build(SIZE)
    found = tuple(tuple(variable for name in names for variable in network.get_layer(name).trainable_variables) for names in blocks)
    return backbone(network, found, module.preprocess)


def user(network: keras.Model) -> backbones.Backbone:
    return backbone(network, backbones._parts(network), lambda images: images)


def backbone(network: keras.Model, blocks: Any, preprocess: Callable[[Any], Any]) -> backbones.Backbone:
    return backbones.Backbone(network=network, preprocess=preprocess, blocks=blocks, pooling="avg", size=SIZE)


def application() -> backbones.Backbone:
    return user(keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)))


def sequential() -> keras.Model:
    layers: list[keras.Layer] = [keras.layers.Rescaling(1 / 255)]
    for width in (4, 6, 8):
        layers += [keras.layers.Conv2D(width, 3, strides=2), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers, keras.layers.Dropout(0.5)])


def nested() -> keras.Model:
    """A network inside a network, called twice, a sum of both, and a vector at the end."""
    inner = keras.Sequential([keras.Input((None, None, 5)), keras.layers.Conv2D(5, 3, padding="same"), keras.layers.BatchNormalization()])
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(5, 3, strides=4)(image / 255)
    x = keras.layers.Add()([inner(inner(x)), x])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(7, 3, name="top")(x))
    return keras.Model(image, keras.layers.Dense(9)(x))


def entangled() -> keras.Model:
    """Two streams that no single tensor separates until they meet."""
    image = keras.Input((SIZE, SIZE, 3))
    left = right = keras.layers.Conv2D(4, 3, strides=2, name="stem")(image / 255)
    for number in range(3):
        left, right = (
            keras.layers.Conv2D(4, 3, padding="same", name=f"left{number}")(right),
            keras.layers.Conv2D(4, 3, padding="same", name=f"right{number}")(left),
        )
    met = keras.layers.Concatenate(name="met")([left, right])
    return keras.Model(image, keras.layers.Conv2D(6, 3, name="top")(met))


def closed() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    return Closed(image, keras.layers.Conv2D(4, 3)(keras.layers.Conv2D(3, 3)(image)))


NETWORKS: dict[str, Callable[[], backbones.Backbone]] = {
    "lite0": lambda: own(LITE0),
    "mobilenet_v2": lambda: own(MOBILENET),
    "squeezenet": lambda: own(squeezenet),
    "keras.applications": application,
    "functional": lambda: user(networks.tiny(SIZE)),
    "sequential": lambda: user(sequential()),
    "nested": lambda: user(nested()),
    "entangled": lambda: user(entangled()),
    "closed": lambda: user(closed()),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> backbones.Backbone:
    """Each kind of network, with weights that give every part an effect."""
    keras.utils.set_random_seed(1)
    built = NETWORKS[request.param]()
    for variable in built.network.variables:
        variable.assign(variable + 0.02)
    return built


def whole(network: backbones.Backbone, images: Any = IMAGES) -> Any:
    """Features of the last layer, computed by the whole network."""
    found = network.network(network.preprocess(images), training=False)
    return tf.reduce_mean(found, tuple(range(1, len(found.shape) - 1)))


def some(count: int) -> list[int]:
    return sorted({0, 1, 2, count // 2, count - 1, count} - {-1})


def near(found: Any, expected: Any) -> None:
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-4, atol=1e-5 * scale)


def test_the_last_features_are_the_networks_own(network: backbones.Backbone) -> None:
    near(network.features(IMAGES, Features.LAST), whole(network))


def test_the_features_of_several_depths_end_with_the_last_ones(network: backbones.Backbone) -> None:
    several = network.features(IMAGES, Features.SEVERAL)
    assert several.shape == (3, network.num_features(Features.SEVERAL))
    assert several.dtype == tf.float32
    near(several[:, -network.num_features(Features.LAST) :], whole(network))


@pytest.mark.parametrize("kind", Features)
def test_both_parts_of_a_cut_together_equal_the_network(network: backbones.Backbone, kind: Features) -> None:
    expected = network.features(IMAGES, kind)
    for num_open in some(len(network.blocks)):
        cut = network.cut(num_open)
        lower = cut.below(IMAGES)
        near(cut.above(lower, kind), expected)
        assert lower[0].shape[1:] == cut.shape
        assert lower[1].shape == (3, cut.num_pooled)
        assert np.prod([length or 0 for length in cut.shape]) + cut.num_pooled == cut.num_values


@pytest.mark.parametrize("kind", Features)
def test_the_upper_part_has_the_gradients_of_the_whole(network: backbones.Backbone, kind: Features) -> None:
    num_open = max(1, len(network.blocks) // 2)
    cut = network.cut(num_open)
    opened = [variable.value for _, variable in cut.variables]
    lower, weights = cut.below(IMAGES), np.random.default_rng(1).normal(size=(3, network.num_features(kind))).astype(np.float32)
    with tf.GradientTape(persistent=True) as tape:
        parts = tf.reduce_sum(cut.above(lower, kind) * weights)
        at_once = tf.reduce_sum(network.features(IMAGES, kind) * weights)
    for found, expected in zip(tape.gradient(parts, opened), tape.gradient(at_once, opened), strict=True):
        near(found, expected)


def test_a_cut_opens_the_blocks_that_unfreezing_opens(network: backbones.Backbone) -> None:
    for num_open in some(len(network.blocks)):
        expected = network.top(num_open / max(1, len(network.blocks)))
        found = network.cut(num_open).variables
        assert [(depth, id(variable)) for depth, variable in sorted(found, key=lambda pair: pair[0])] == [
            (depth, id(variable)) for depth, variable in expected
        ]


def test_nothing_below_a_cut_is_trained(network: backbones.Backbone) -> None:
    for num_open in some(len(network.blocks)):
        cut = network.cut(num_open)
        before = [part.numpy() for part in cut.below(IMAGES)]
        kept = [variable.numpy() for _, variable in cut.variables]
        for _, variable in cut.variables:
            variable.assign(variable + 1)
        assert all((part.numpy() == value).all() for part, value in zip(cut.below(IMAGES), before, strict=True))
        for (_, variable), value in zip(cut.variables, kept, strict=True):
            variable.assign(value)


def test_with_every_block_open_only_layers_without_weights_are_below_the_cut() -> None:
    assert own(LITE0).cut(18).shape == (SIZE, SIZE, 3)
    assert own(LITE0).cut(18).multiply_adds == 0
    cut = user(networks.tiny(SIZE)).cut(3)
    np.testing.assert_allclose(cut.below(IMAGES)[0], IMAGES / 127.5 - 1, rtol=1e-5, atol=1e-6)


def test_a_cut_moves_down_to_a_tensor_that_separates_the_network() -> None:
    network = user(entangled())
    top, *middle, stem, everything = (network.cut(number) for number in range(1, 9))
    assert [part.shape[-1] for part in (top, stem, everything)] == [8, 4, 3]
    assert {part.boundary for part in middle} == {stem.boundary}
    assert [len(part.variables) for part in (top, *middle, stem)] == [2, 4, 6, 8, 10, 12, 14]


def test_six_depths_of_our_own_network_are_spread_evenly() -> None:
    network = own(LITE0)
    assert network.num_features(Features.LAST) == 1280
    assert network.num_features(Features.SEVERAL) == 24 + 40 + 80 + 112 + 192 + 1280


@pytest.mark.parametrize("num_blocks", [0, 1, 2, 3, 6, 9, 16, 18, 100])
def test_depths_are_different_blocks_including_the_last(num_blocks: int) -> None:
    chosen = cuts._spread_blocks(num_blocks)
    assert len(chosen) == len(set(chosen)) == max(1, min(num_blocks, cuts.NUM_DEPTHS))
    assert chosen[-1] == max(0, num_blocks - 1)


def test_the_multiply_adds_below_a_cut_are_those_of_its_layers() -> None:
    network = user(networks.tiny(SIZE))
    first, second = 15 * 15 * 3 * 3 * 3 * 8, 7 * 7 * 3 * 3 * 8 * 12
    assert [network.cut(number).multiply_adds for number in (3, 2, 1)] == [0, first, first + second]


def test_max_pooling_applies_to_every_depth() -> None:
    maps = tf.constant(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), tf.float32)
    near(cuts.pooling("max")(maps), np.max(maps.numpy(), (1, 2)))
    near(cuts.pooling("avg")(maps), np.mean(maps.numpy(), (1, 2)))
    assert cuts.pooling("max")(maps[:, 0, 0]).shape == (2, 4)


def test_the_network_is_in_inference_mode() -> None:
    network = user(sequential())
    assert (network.features(IMAGES, Features.SEVERAL).numpy() == network.features(IMAGES, Features.SEVERAL).numpy()).all()
