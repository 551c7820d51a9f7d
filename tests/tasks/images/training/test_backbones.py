"""Every kind of backbone: preprocessing, features and blocks, and the errors of backbones that cannot be loaded."""

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import NETWORK, study
from tuner import errors
from tuner.spec import model as spec_model
from tuner.spec import study as spec_study
from tuner.tasks.images.training import backbones

# Keras itself reads its variables in a way that NumPy is going to give up
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
#: what each does to black and to white; from their papers' code
RANGES = {
    "MobileNetV2": (-1, 1),
    "MobileNetV3Small": (0, 255),  # has its own layer for it
    "EfficientNetB0": (0, 255),
    "EfficientNetV2B0": (0, 255),
    "ConvNeXtTiny": (0, 255),
    "ResNet50V2": (-1, 1),
    "InceptionV3": (-1, 1),
    "DenseNet121": (-0.485 / 0.229, (1 - 0.485) / 0.229),
    "VGG16": (-103.939, 255 - 103.939),
}


def model(**changes: Any) -> spec_study.Model:
    return study(model=NETWORK | {"weights": "none"} | changes).model


def vectors(backbone: backbones.Backbone) -> NDArray[np.float32]:
    found: NDArray[np.float32] = keras.ops.convert_to_numpy(backbone.features(IMAGES))
    return found


def opened(backbone: backbones.Backbone, unfreeze: float) -> set[int]:
    return {id(variable) for _, variable in backbone.top(unfreeze)}


def norms(layer: keras.Layer) -> set[int]:
    """The variables of the BatchNorms at any depth."""
    inner = [found for found in layer._flatten_layers() if isinstance(found, keras.layers.BatchNormalization)]
    return {id(variable) for found in inner for variable in found.variables}


@pytest.mark.parametrize(
    ("name", "width", "blocks"), [("squeezenet1_1", 512, 9), ("efficientnet_lite0", 1280, 18), ("mobilenet_v2", 1280, 19)]
)
def test_a_built_in_network_gives_one_vector_per_image(name: str, width: int, blocks: int) -> None:
    backbone = backbones.load(model(backbone=name))
    assert vectors(backbone).shape == (2, width)
    assert len(backbone.blocks) == blocks
    assert opened(backbone, 1.0) == {id(variable) for variable in backbone.network.trainable_variables}


def test_pooling_takes_the_mean_or_the_maximum_over_the_pixels() -> None:
    average, largest = (backbones.load(model(pooling=pooling)) for pooling in ("avg", "max"))
    maps = average.network(average.preprocess(IMAGES)).numpy()
    np.testing.assert_allclose(vectors(average), maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(vectors(largest), maps.max((1, 2)), rtol=1e-4, atol=1e-5)
    assert average.digest() != largest.digest()


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_the_same_network_has_the_same_weights_and_digest_each_time(weights: str) -> None:
    first, second = (backbones.load(model(weights=weights)) for _ in range(2))
    assert (vectors(first) == vectors(second)).all()
    assert first.digest() == second.digest()


def test_random_and_pretrained_weights_have_different_digests() -> None:
    assert backbones.load(model()).digest() != backbones.load(model(weights="imagenet")).digest()


@pytest.mark.parametrize("name", RANGES)
def test_a_keras_network_gets_its_own_preprocessing(name: str) -> None:
    preprocess = backbones._preprocessing_of(getattr(keras.applications, name))
    grey = np.array([[[[0.0] * 3, [255.0] * 3]]], np.float32)
    fed = keras.ops.convert_to_numpy(preprocess(grey))
    np.testing.assert_allclose(fed[0, 0, :, 0], RANGES[name], rtol=1e-3)
    assert grey.max() == 255


@pytest.mark.parametrize("name", [name for name in spec_model.BACKBONES if name[0].isupper()])
def test_the_preprocessing_of_every_network_of_keras_is_found(name: str) -> None:
    assert backbones._preprocessing_of(getattr(keras.applications, name))(IMAGES).shape == IMAGES.shape


@pytest.mark.parametrize(
    ("name", "width"), [("MobileNetV3Small", 576), ("MobileNetV2", 1280), ("EfficientNetB0", 1280), ("ResNet50V2", 2048)]
)
def test_a_keras_network_is_divided_into_blocks_without_its_batch_norms(name: str, width: int) -> None:
    backbone = backbones.load(model(backbone=name))
    assert vectors(backbone).shape == (2, width)
    assert len(backbone.blocks) == backbones.NUM_PARTS
    trained = opened(backbone, 1.0)
    assert trained | norms(backbone.network) >= {id(variable) for variable in backbone.network.trainable_variables}
    assert not trained & norms(backbone.network)
    # the blocks run from the bottom up
    order = {id(variable): number for number, variable in enumerate(backbone.network.variables)}
    numbers = [order[id(variable)] for block in backbone.blocks for variable in block]
    assert numbers == sorted(numbers)


def test_unfreezing_counts_blocks_from_the_top() -> None:
    backbone = backbones.load(model())
    top = backbone.top(2 / 9)
    assert {variable.path.split("/")[0].split("_")[0] for _, variable in top} == {"fire8", "fire9"}
    assert {depth for depth, variable in top if "fire9" in variable.path} == {0}
    assert {depth for depth, variable in top if "fire8" in variable.path} == {1}
    assert {variable.path.split("/")[0] for variable in backbone.blocks[0]} == {"conv1"}
    assert backbone.top(0.0) == []
    assert max(depth for depth, _ in backbone.top(1.0)) == 8


@pytest.mark.parametrize(
    ("unfreeze", "blocks", "expected"),
    [
        (0.0, 10, 0),
        (1e-9, 10, 1),  # a little is one block
        (0.04, 10, 1),
        (0.5, 10, 5),
        (0.55, 10, 6),
        (0.999, 10, 10),
        (1.0, 10, 10),
        (0.3, 1, 1),
        (1.0, 0, 0),  # a network without weights
    ],
)
def test_a_share_of_the_blocks_is_rounded_to_at_least_one(unfreeze: float, blocks: int, expected: int) -> None:
    assert backbones.num_unfrozen(unfreeze, blocks) == expected


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as users save it: a frozen inner network with BatchNorms, and a head on top."""
    inner = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, strides=2, name="low"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(6, 3, strides=2, name="high"),
        ],
        name="inner",
    )
    inner.trainable = False
    image = keras.Input((32, 32, 3))
    x = inner(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, name="last")(x))
    x = keras.layers.Dense(5, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    path = tmp_path_factory.mktemp("saved") / "mine.keras"
    keras.Model(image, x).save(path)
    return path


def test_a_saved_network_loses_its_head_and_is_unfrozen_inside_too(saved: Path) -> None:
    backbone = backbones.load(model(backbone=str(saved)))
    assert vectors(backbone).shape == (2, 8)
    assert [block[0].path.split("/")[-2] for block in backbone.blocks] == ["low", "high", "last"]
    assert len(opened(backbone, 1.0)) == 6
    assert not opened(backbone, 1.0) & norms(backbone.network)


def test_a_saved_network_keeps_its_weights(saved: Path) -> None:
    whole = keras.saving.load_model(saved)
    reference = keras.Model(whole.inputs[0], whole.layers[-1].input)(IMAGES, training=False)
    np.testing.assert_allclose(vectors(backbones.load(model(backbone=str(saved)))), reference, rtol=1e-5)


def test_a_sequential_network_loses_its_head_too(tmp_path: Path) -> None:
    layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input((32, 32, 3)), *layers]).save(tmp_path / "a.keras")
    assert vectors(backbones.load(model(backbone=str(tmp_path / "a.keras")))).shape == (2, 4)


def body(*head: keras.layers.Layer, pool: bool = True) -> keras.Model:
    """Two convolutions, 6 features wide, and layers on top of them."""
    pooling = [keras.layers.GlobalAveragePooling2D()] if pool else []
    convolutions = [keras.layers.Conv2D(4, 3, name="low"), keras.layers.Conv2D(6, 3, name="high")]
    return keras.Sequential([keras.Input((32, 32, 3)), *convolutions, *pooling, *head], name="body")


def on_body(head: Callable[[Any], Any]) -> keras.Model:
    """A functional model: a rescaling, the body as an inner model, and a head."""
    image = keras.Input((32, 32, 3))
    return keras.Model(image, head(body()(keras.layers.Rescaling(1 / 255)(image))))


def dense(activation: str | None = None, units: int = 3) -> keras.layers.Layer:
    return keras.layers.Dense(units, activation=activation)


HEADS: dict[str, Callable[[], keras.Model]] = {
    "dense": lambda: body(dense()),
    "dense with softmax": lambda: body(dense("softmax")),
    "softmax as an activation": lambda: body(dense(), keras.layers.Activation("softmax")),
    "softmax as a layer": lambda: body(dense(), keras.layers.Softmax()),
    "softmax in float32": lambda: body(dense(), keras.layers.Activation("softmax", dtype="float32")),
    "logits in float32": lambda: body(dense(), keras.layers.Activation("linear", dtype="float32")),
    "one unit with sigmoid": lambda: body(dense(units=1), keras.layers.Activation("sigmoid")),
    "logarithms": lambda: body(dense(), keras.layers.Activation("log_softmax")),
    "dropout between": lambda: body(dense(), keras.layers.Dropout(0.1), keras.layers.Softmax()),
    "an inner model with pooling": lambda: body(
        keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.2), dense("softmax")]), pool=False
    ),
    "an inner model that is all head": lambda: body(keras.Sequential([dense(), keras.layers.Softmax()])),
    "an operation": lambda: on_body(lambda x: keras.ops.softmax(dense()(x))),
    "an operation for several labels": lambda: on_body(lambda x: keras.ops.sigmoid(dense()(x))),
    "a temperature": lambda: on_body(lambda x: keras.ops.softmax(dense()(x) / 2.0)),
    "a convolution": lambda: body(
        keras.layers.Conv2D(3, 1), keras.layers.GlobalAveragePooling2D(), keras.layers.Activation("softmax"), pool=False
    ),
}


Wrap = Callable[[keras.Model], backbones.Backbone]


@pytest.fixture
def wrap(monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Load a network as that of a user's function."""

    def load(network: keras.Model) -> backbones.Backbone:
        module = types.ModuleType("my_heads")
        module.build = lambda size: network  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_heads", module)
        return backbones.load(model(backbone="python:my_heads:build"))

    return load


@pytest.mark.parametrize("form", HEADS)
def test_an_old_head_is_taken_off_whatever_its_form(form: str, wrap: Wrap) -> None:
    network = HEADS[form]()
    low, high = (
        network.get_layer(name) if network.name == "body" else network.get_layer("body").get_layer(name) for name in ("low", "high")
    )
    images = IMAGES if network.name == "body" else IMAGES / 255
    np.testing.assert_allclose(vectors(wrap(network)), keras.ops.mean(high(low(images)), (1, 2)), rtol=1e-4, atol=1e-5)


def test_a_network_of_keras_with_its_head_loses_it(wrap: Wrap) -> None:
    whole = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=3)
    assert vectors(wrap(whole)).shape == (2, 1024)


@pytest.mark.parametrize("top", ["ReLU", "Dropout", "BatchNormalization"])
def test_layers_that_end_in_features_stay(top: str, wrap: Wrap) -> None:
    layer = keras.layers.Dropout(0.5) if top == "Dropout" else getattr(keras.layers, top)()
    assert vectors(wrap(body(dense(units=12), layer))).shape == (2, 12)


class OwnSoftmax(keras.layers.Layer):  # type: ignore[misc]
    """A layer that nobody can recognize."""

    def call(self, x: Any) -> Any:
        return keras.ops.softmax(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: body(dense(), OwnSoftmax(name="mine")), "3 probabilities, which sum to 1: its last layer mine"),
        (lambda: body(keras.layers.Softmax(name="mine")), "6 probabilities, which sum to 1: its last layer mine"),
        (lambda: body(keras.layers.Softmax(name="mine"), pool=False), "6 probabilities, which sum to 1: its last layer mine"),
        (
            lambda: on_body(lambda x: keras.layers.Average(name="mine")([dense("softmax")(x), dense("softmax")(x)])),
            "3 probabilities, which sum to 1: its last layer mine",
        ),
        (lambda: body(dense(units=1), keras.layers.LeakyReLU(name="mine")), "one number: its last layer mine"),
    ],
)
def test_a_head_that_is_not_recognized_is_refused_with_the_name_of_its_layer(
    network: Callable[[], keras.Model], message: str, wrap: Wrap
) -> None:
    with pytest.raises(errors.DataError, match=message) as caught:
        wrap(network())
    assert 'network.get_layer("FEATURES").output' in str(caught.value)


NETWORKS = """
import keras

class Norming(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.kernel, self.norm = keras.layers.Dense(5), keras.layers.BatchNormalization()
    def build(self, shape):
        self.kernel.build(shape)
        self.norm.build((*shape[:-1], 5))
    def call(self, x, training=None):
        return self.norm(self.kernel(x), training=training)

def small(size, scale=255):
    image = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(1 / scale)(image))
    return keras.Model(image, Norming()(x))

def other(size):
    return small(size, scale=100)

def number(size):
    return size

def wide(size):
    return keras.Sequential([keras.Input((size * 2, size * 2, 3)), keras.layers.Conv2D(3, 3)])

def grey(size):
    return keras.Sequential([keras.Input((size, size, 1)), keras.layers.Conv2D(3, 3)])

def flat(size):
    return keras.Sequential([keras.Input((size,)), keras.layers.Dense(3)])

def unbuilt(size):
    return keras.Sequential([keras.layers.Conv2D(3, 3)])

def double(size):
    image = keras.Input((size, size, 3))
    return keras.Model(image, [keras.layers.Conv2D(3, 3)(image), keras.layers.Conv2D(4, 3)(image)])
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module with networks, in the current folder."""
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    (tmp_path / "my_typo.py").write_text("def small(size:\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("networks")
def test_a_users_function_builds_the_network_for_the_image_size() -> None:
    backbone = backbones.load(model(backbone="python:my_networks:small"))
    assert backbone.network.input_shape == (None, 32, 32, 3)
    assert vectors(backbone).shape == (2, 5)
    assert len(opened(backbone, 1.0)) == 4
    assert not opened(backbone, 1.0) & norms(backbone.network)


@pytest.mark.usefixtures("networks")
def test_equal_networks_with_different_preprocessing_have_different_digests() -> None:
    small, other = (backbones.load(model(backbone=f"python:my_networks:{name}")) for name in ("small", "other"))
    assert [variable.numpy().tolist() for variable in small.network.variables] == [v.numpy().tolist() for v in other.network.variables]
    assert small.digest() != other.digest()


@pytest.mark.usefixtures("networks")
@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("python:my_networks:missing", "cannot be imported (module 'my_networks' has no attribute 'missing')"),
        ("python:no_such_module:small", "cannot be imported (No module named 'no_such_module')"),
        ("python:my_typo:small", "cannot be imported ('(' was never closed"),
        ("python:my_networks:number", "returned a int; expected a keras.Model of images (n, 32, 32, 3)"),
        ("python:my_networks:wide", "takes images (64, 64, 3); model.image_size 32 gives (32, 32, 3)"),
        ("python:my_networks:grey", "takes images (32, 32, 1); model.image_size 32 gives (32, 32, 3)"),
        ("python:my_networks:flat", "expected a functional or built Sequential model, one input of images (n, 32, 32, 3)"),
        ("python:my_networks:unbuilt", "has 0 inputs and 0 outputs; expected a functional or built Sequential model"),
        ("python:my_networks:double", "has 1 inputs and 2 outputs"),
    ],
)
def test_a_function_that_returns_no_network_of_images_is_refused(backbone: str, message: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        backbones.load(model(backbone=backbone))
    assert str(caught.value).startswith(f"model.backbone {backbone} ")
    assert message in str(caught.value)


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    random = backbones.load(model())
    changed = [variable.assign(variable + 0.5) for variable in random.network.variables]
    random.network.save_weights(tmp_path / "my.weights.h5")
    loaded = backbones.load(model(weights=str(tmp_path / "my.weights.h5")))
    assert len(changed) == len(loaded.network.variables)
    assert (vectors(loaded) == vectors(random)).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.keras", None, "which is not a file .*; expected a model saved by Keras"),
        ("broken.keras", b"hello", "whose content is in no format of Keras, or damaged"),
        ("broken.h5", b"hello", "whose content is in no format of Keras, or damaged"),
    ],
)
def test_a_saved_network_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match=message) as caught:
        backbones.load(model(backbone=str(tmp_path / name)))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.weights.h5", "expected imagenet, none, or weights that Keras saved"), ("other.weights.h5", "do not fit squeezenet1_1")],
)
def test_weights_that_cannot_be_loaded_are_refused(tmp_path: Path, name: str, message: str) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(errors.DataError, match=message) as caught:
        backbones.load(model(weights=str(tmp_path / name)))
    assert name in str(caught.value)


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(errors.DataError, match=r"model.backbone is ResNet49; expected one of efficientnet_lite0, .*ResNet50, .*kerashub:"):
        backbones.load(model().model_copy(update={"backbone": "ResNet49"}))


def test_an_image_size_too_small_for_a_keras_network_is_refused() -> None:
    with pytest.raises(errors.DataError, match="InceptionV3 cannot be built for model.image_size 32"):
        backbones.load(model().model_copy(update={"backbone": "InceptionV3"}))


def test_a_failed_download_of_weights_is_reported_quickly_with_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(errors.MissingDownload) as caught:
        backbones.load(model(backbone="MobileNetV2", weights="imagenet", image_size=96))
    assert time.perf_counter() - start < 20
    message = str(caught.value)
    assert message.startswith("The ImageNet weights of MobileNetV2 cannot be downloaded (URL fetch failure")
    for cure in ("efficientnet_lite0", "model.weights to a file or to none", "~/.keras"):
        assert cure in message


def test_a_kerashub_preset_without_its_package_says_what_to_install() -> None:
    with pytest.raises(errors.MissingPackage, match=r"pip install 'tuner\[kerashub\]'"):
        backbones.load(model(backbone="kerashub:resnet_50_imagenet"))
