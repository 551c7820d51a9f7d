"""EfficientNet-Lite0: its weights, its folded BatchNorms, and its predictions for photographs."""

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import Pictures, batch
from tuner.tasks.images.training import efficientnet_lite0, weight_files

#: of 20 pictures; random weights name none
EXPECTED = {224: 0.85, 160: 0.80, 96: 0.50}


def named(images: NDArray[np.uint8], *, imagenet: bool) -> NDArray[np.int64]:
    """The ImageNet class of each image."""
    network, _ = efficientnet_lite0.build(images.shape[1])
    if imagenet:
        efficientnet_lite0.load_imagenet(network)
    kernel, bias = efficientnet_lite0.classifier()
    maps = network(efficientnet_lite0.preprocess(images.astype(np.float32)), training=False).numpy()
    found: NDArray[np.int64] = (maps.mean((1, 2)) @ kernel + bias).argmax(1)
    return found


@pytest.mark.parametrize("size", EXPECTED)
def test_the_photographs_are_named_as_the_published_weights_name_them(pictures: Pictures, size: int) -> None:
    images, labels = batch(pictures, size)
    assert (named(images, imagenet=True) == labels).mean() == pytest.approx(EXPECTED[size])


def test_weights_none_gives_random_weights(pictures: Pictures) -> None:
    images, labels = batch(pictures, 96)
    assert (named(images, imagenet=False) == labels).mean() == 0.0


def unfolded(weights: dict[str, NDArray[np.float32]], size: int) -> keras.Model:
    """Block 2, expand, depthwise and project, each followed by a BatchNorm of Keras."""
    image = x = keras.Input((size, size, 24))
    source, turned = "_blocks.2.", (2, 3, 1, 0)
    convolutions = {
        "_expand_conv": keras.layers.Conv2D(144, 1, use_bias=False),
        "_depthwise_conv": keras.layers.DepthwiseConv2D(3, 1, "same", use_bias=False),
        "_project_conv": keras.layers.Conv2D(24, 1, use_bias=False),
    }
    for number, (name, convolution) in enumerate(convolutions.items()):
        norm = keras.layers.BatchNormalization(epsilon=1e-3)
        x = norm(convolution(x))
        x = keras.layers.ReLU(6.0)(x) if number < 2 else keras.layers.Add()([x, image])
        axes = (2, 3, 0, 1) if "depthwise" in name else turned
        convolution.set_weights([weights[f"{source}{name}.weight"].transpose(axes)])
        norm.set_weights([weights[f"{source}_bn{number}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    return keras.Model(image, x)


def test_a_folded_block_computes_what_the_block_with_its_batch_norms_does() -> None:
    network, _ = efficientnet_lite0.build(32)
    efficientnet_lite0.load_imagenet(network)
    folded = keras.Model(network.get_layer("block1_project_conv").output, network.get_layer("block2_add").output)
    reference = unfolded(weight_files.read_torch(efficientnet_lite0.weights_file()), 8)
    maps = np.random.default_rng(0).normal(0, 5, (4, 8, 8, 24)).astype(np.float32)
    np.testing.assert_allclose(folded(maps), reference(maps, training=False), rtol=1e-4, atol=1e-4)


def test_every_layer_with_weights_is_in_one_block_in_order() -> None:
    network, blocks = efficientnet_lite0.build(64)
    assert [name for names in blocks for name in names] == [layer.name for layer in network.layers if layer.weights]
    assert len(blocks) == 18
    assert network.output_shape == (None, 2, 2, 1280)
    # 3,371,008 are published without the classifier; folding leaves one number a channel of each BatchNorm's two
    assert network.count_params() == 3_371_008 - sum(layer.weights[1].shape[0] for layer in network.layers if layer.weights)
