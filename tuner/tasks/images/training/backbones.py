"""Backbones: the pretrained network that the `model` section of a study names, ending in a feature map or vector."""

import functools
import hashlib
import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tuner import errors
from tuner.kernels import cuts, downloads, gradients, keras_private
from tuner.spec.hyperparameters import Features
from tuner.spec.model import Model, TrialModel
from tuner.tasks.images.training import inverted_residuals, squeezenet
from tuner.trust import keras_file, user_code

#: number of blocks of a network that does not define its own; all have about the same number of layers
NUM_PARTS = 16
_NORMS = (keras.layers.BatchNormalization,)
#: activations that turn the numbers of a head into probabilities
_PROBABILITIES = ("softmax", "sigmoid", "log_softmax", "hard_sigmoid", "sparsemax", "sparse_sigmoid")
#: how far the sum of probabilities in bfloat16 is from 1
_SUM_TOLERANCE = 0.02
#: layers that may stand between a head and its probabilities
_BETWEEN = (
    keras.layers.Activation, keras.layers.ReLU, keras.layers.Dropout, keras.layers.Flatten, keras.layers.Reshape, keras.layers.Rescaling,
    keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D, keras.layers.Identity,
)  # fmt: skip
#: operations with a number, for example the temperature of a softmax
_TEMPERATURES = ("divide", "truedivide", "multiply")
#: seed of weights that are not loaded, so that they are equal in every process
_SEED = 0
_OWN: Mapping[str, Any] = {**inverted_residuals.NETWORKS, "squeezenet1_1": squeezenet}
_CURE = (
    "Use efficientnet_lite0, whose weights are installed with tuner, set model.weights to a file or to none, "
    "or copy ~/.keras here from a machine where they could be downloaded"
)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network with its preprocessing, pooling and blocks."""

    #: from preprocessed images (n, size, size, 3) to a feature map (n, h, w, d) or vector (n, d)
    network: keras.Model
    #: from colors from 0 to 255 to the input that the network was trained on
    preprocess: Callable[[Any], Any]
    #: variables that fine-tuning may train, block by block from the bottom; those of BatchNorms are never included
    blocks: tuple[tuple[keras.Variable, ...], ...]
    pooling: str
    #: side of the images in pixels
    size: int

    def features(self, images: Any, kind: Features = Features.LAST) -> Any:
        """Return the features (n, d) of images (n, size, size, 3), colors from 0 to 255; BatchNorm and dropout are in inference mode."""
        return self._network.features(images, kind)

    def maps(self, preprocessed: Any, kind: Features) -> list[Any]:
        """Return the feature maps, before pooling, of preprocessed images, which may be Keras tensors."""
        return self._network.maps(preprocessed, kind)

    def widths(self, kind: Features) -> tuple[int, ...]:
        """Return the number of features of each depth."""
        return self._network.widths(kind)

    def num_features(self, kind: Features) -> int:
        """Return the width of the features."""
        return self._network.num_features(kind)

    def cut(self, num_open: int) -> cuts.Cut:
        """Cut the backbone below its topmost blocks."""
        return self._network.cut(num_open)

    def convolutions(self) -> list[gradients.Convolution]:
        """Return the convolutions that `gradients.choose` measures."""
        return self._network.convolutions()

    def top(self, unfreeze: float) -> list[tuple[int, keras.Variable]]:
        """Return the variables of the topmost blocks, a share of all blocks, each with the number of blocks above its own."""
        count = len(self.blocks)
        opened = self.blocks[count - num_unfrozen(unfreeze, count) :]
        return [(depth, variable) for depth, block in enumerate(reversed(opened)) for variable in block]

    @functools.cached_property
    def _network(self) -> cuts.NetworkBlocks:
        return cuts.NetworkBlocks(self.network, self.blocks, pool=cuts.pooling(self.pooling), preprocess=self.preprocess, size=self.size)

    def digest(self) -> str:
        """Return a SHA-256 over weights, precision and the features of one image, which depend on preprocessing and architecture."""
        content = hashlib.sha256(f"{self.pooling} {self.network.compute_dtype}".encode())
        for variable in self.network.variables:
            content.update(str(variable.shape).encode())
            content.update(variable.numpy().tobytes())
        image = np.random.default_rng(0).integers(0, 256, (1, self.size, self.size, 3)).astype(np.float32)
        content.update(f"{float(keras.ops.mean(keras.ops.abs(self.features(image)))):.3g}".encode())
        return content.hexdigest()


def num_unfrozen(unfreeze: float, num_blocks: int) -> int:
    """Return the number of blocks in a share of them; 0 only for 0."""
    return min(num_blocks, max(1, round(unfreeze * num_blocks))) if unfreeze > 0 else 0


def load(named: Model) -> Backbone:
    """Load the one network that a study names, with its weights.

    Raises:
        DataError: the network or the weights file does not exist, or has the wrong form.
        MissingDownload: the weights cannot be downloaded.
        MissingPackage: it needs an extra that is not installed.
    """
    keras.utils.set_random_seed(_SEED)
    model = named.of_trial()
    name = model.backbone
    if name in _OWN:
        return _load_own(model)
    if name.startswith("kerashub:"):
        return _load_kerashub(model)
    if name.startswith("python:"):
        return _load_function(model)
    if name.endswith((".keras", ".h5")):
        return _load_file(model)
    return _load_application(model)


def _load_own(model: TrialModel) -> Backbone:
    own = _OWN[model.backbone]
    network, blocks = own.build(model.image_size)
    if model.weights == "imagenet":
        own.load_imagenet(network)
    elif model.weights != "none":
        _load_weights(network, model.weights)
    variables = tuple(tuple(variable for name in names for variable in network.get_layer(name).trainable_variables) for names in blocks)
    return Backbone(network=network, preprocess=own.preprocess, blocks=variables, pooling=model.pooling, size=model.image_size)


def _load_application(model: TrialModel) -> Backbone:
    build = getattr(keras.applications, model.backbone, None)
    if not callable(build):
        known = ", ".join([*_OWN, *sorted(name for name in dir(keras.applications) if name[0].isupper())])
        others = "a .keras file, kerashub:PRESET or python:MODULE:FUNCTION"
        raise errors.DataError(f"model.backbone is {model.backbone}; expected one of {known}, {others}")
    weights = "imagenet" if model.weights == "imagenet" else None
    shape = (model.image_size, model.image_size, 3)
    try:
        with downloads.downloading(f"The ImageNet weights of {model.backbone}", cure=_CURE):
            network = build(include_top=False, weights=weights, input_shape=shape)
    except ValueError as error:
        raise errors.DataError(
            f"model.backbone {model.backbone} cannot be built for model.image_size {model.image_size}: {error}"
        ) from error
    if model.weights not in ("imagenet", "none"):
        _load_weights(network, model.weights)
    return Backbone(
        network=network, preprocess=_preprocessing_of(build), blocks=_parts(network), pooling=model.pooling, size=model.image_size
    )


def _preprocessing_of(build: Callable[..., keras.Model]) -> Callable[[Any], Any]:
    """Return `preprocess_input` of the keras.applications module that defines a network."""
    module = getattr(keras.applications, build.__module__.rpartition(".")[2])
    # some of them change a NumPy array in place, but not a tensor
    return lambda images: module.preprocess_input(keras.ops.convert_to_tensor(images))


def _load_file(model: TrialModel) -> Backbone:
    path = Path(model.backbone).expanduser()
    keras_file.require_model(path)
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError) as error:
        raise errors.DataError(f"model.backbone {path} cannot be loaded: {error}") from error
    return _wrapped(network, model)


def _load_function(model: TrialModel) -> Backbone:
    module_name, _, function_name = model.backbone.removeprefix("python:").partition(":")
    with user_code.current_folder():
        try:
            build = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, SyntaxError, AttributeError) as error:
            raise errors.DataError(
                f"model.backbone {model.backbone} cannot be imported ({error}); expected python:MODULE:FUNCTION, "
                "installed, in the folder where you start tuner, or in a folder of PYTHONPATH"
            ) from error
        network = build(model.image_size)
    if not isinstance(network, keras.Model):
        expected = f"a keras.Model of images (n, {model.image_size}, {model.image_size}, 3)"
        raise errors.DataError(f"model.backbone {model.backbone} returned a {type(network).__name__}; expected {expected}")
    return _wrapped(network, model)


def _load_kerashub(model: TrialModel) -> Backbone:
    try:
        import keras_hub
    except ImportError as error:
        raise errors.MissingPackage("keras-hub", extra="kerashub", needed_for=f"model.backbone {model.backbone}") from error
    preset, side = model.backbone.removeprefix("kerashub:"), model.image_size
    try:
        with downloads.downloading(f"The KerasHub preset {preset}", cure=_CURE):
            network = keras_hub.models.Backbone.from_preset(preset, load_weights=model.weights == "imagenet", image_shape=(side, side, 3))
            convert = keras_hub.layers.ImageConverter.from_preset(preset, image_size=(side, side))
    except (ValueError, TypeError) as error:
        raise errors.DataError(f"model.backbone {model.backbone} cannot be loaded: {error}") from error
    return Backbone(network=network, preprocess=convert, blocks=_parts(network), pooling=model.pooling, size=model.image_size)


def _wrapped(network: keras.Model, model: TrialModel) -> Backbone:
    """Return the backbone of a user's network, which does its own preprocessing, without its old head."""
    _check_form(network, model)
    network = _headless(network)
    _require_features(network, model)
    return Backbone(network=network, preprocess=lambda images: images, blocks=_parts(network), pooling=model.pooling, size=model.image_size)


def _headless(network: keras.Model) -> keras.Model:
    """Return a network without its old head: the last Dense layer, or the last 1 x 1 convolution before probabilities, and all above it."""
    graph = keras_private.graph_of(network)
    if graph is None:
        return network
    below = _below_head(graph)
    if below is None or below is graph.inputs[0]:
        return network
    return keras.Model(graph.inputs[0], below, name=network.name)


def _below_head(graph: Any) -> Any | None:
    """Return the tensor that an old head gets, or None if the network does not end in one."""
    makers = {id(output): node for node in keras_private.calls(graph) for output in node.outputs}
    tensor, makes_probabilities = graph.outputs[0], False
    while (node := makers.get(id(tensor))) is not None and len(node.input_tensors) == 1:
        layer, below = node.operation, node.input_tensors[0]
        inner = keras_private.graph_of(layer)
        if inner is not None:
            head = _below_head(inner)
            if head is None:
                return None
            return below if head is inner.inputs[0] else keras.Model(inner.inputs[0], head, name=layer.name)(below)
        if isinstance(layer, keras.layers.Dense) or (makes_probabilities and _is_classifying(layer)):
            return below
        makes_probabilities = makes_probabilities or _activation(layer) in _PROBABILITIES
        if _activation(layer) not in ("linear", "identity", *_PROBABILITIES) and not (makes_probabilities and _is_between(layer)):
            return None
        tensor = below
    return None


def _activation(layer: Any) -> str:
    """Return the name of what a layer or an operation without weights computes for each number: `softmax`, `relu`; "" for others."""
    if isinstance(layer, keras.layers.Activation):
        return str(getattr(layer.activation, "__name__", ""))
    name = type(layer).__name__
    return {"LogSoftmax": "log_softmax", "HardSigmoid": "hard_sigmoid"}.get(name, "" if getattr(layer, "weights", ()) else name.lower())


def _is_between(layer: Any) -> bool:
    return isinstance(layer, _BETWEEN) or _activation(layer) in _TEMPERATURES


def _is_classifying(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)


def _require_features(network: keras.Model, model: TrialModel) -> None:
    """Refuse a network whose output is probabilities or one number, so that its head would learn from an older head's answers.

    Raises:
        DataError: the message names the last layer.
    """
    images = np.random.default_rng(0).uniform(0, 255, (2, model.image_size, model.image_size, 3)).astype(np.float32)
    given = keras.ops.cast(images, network.inputs[0].dtype)
    found = keras.ops.cast(network(given, training=False), "float32").numpy()
    is_map = found.ndim > 2
    found = found.reshape(-1, found.shape[-1])  # of a map: each place on its own
    width, last = found.shape[1], network.layers[-1].name
    logs = np.exp(found) if (found <= 0).all() else found
    if width == 1 and is_map:
        return
    if width > 1 and (not (logs >= 0).all() or not np.allclose(logs.sum(axis=1), 1, atol=_SUM_TOLERANCE)):
        return
    what = "one number" if width == 1 else f"{width} probabilities, which sum to 1"
    raise errors.DataError(
        f"model.backbone {model.backbone} returns {what}: its last layer {last} belongs to an old head, which tuner does not recognize. "
        "Return features instead, with FEATURES the name of the layer below that head: "
        'keras.Model(network.input, network.get_layer("FEATURES").output)'
    )


def _check_form(network: keras.Model, model: TrialModel) -> None:
    side = model.image_size
    inputs, outputs = (getattr(network, name, None) or [] for name in ("inputs", "outputs"))
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
        given = f"{len(inputs)} inputs and {len(outputs)} outputs"
        expected = f"a functional or built Sequential model, one input of images (n, {side}, {side}, 3) and one output"
        raise errors.DataError(f"model.backbone {model.backbone} has {given}; expected {expected}")
    if any(length not in (None, wanted) for length, wanted in zip(inputs[0].shape[1:], (side, side, 3), strict=True)):
        raise errors.DataError(
            f"model.backbone {model.backbone} takes images {inputs[0].shape[1:]}; model.image_size {side} gives ({side}, {side}, 3)"
        )


def _parts(network: keras.Model) -> tuple[tuple[keras.Variable, ...], ...]:
    """Divide the variables of the layers, except BatchNorms, into up to NUM_PARTS blocks of about as many layers."""
    layers = [found for layer in _leaves(network) if (found := _without_norms(layer))]
    bounds = np.linspace(0, len(layers), min(NUM_PARTS, len(layers)) + 1).round().astype(int)
    return tuple(tuple(variable for layer in layers[start:end] for variable in layer) for start, end in itertools.pairwise(bounds))


def _leaves(network: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers from the bottom up, with inner networks replaced by their layers; unfreeze layers that were saved frozen."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            layer.trainable = True
            yield layer


def _without_norms(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of a layer, except those of BatchNorms inside it."""
    norms = {
        id(variable) for inner in keras_private.inner_layers(layer) if isinstance(inner, _NORMS) for variable in inner.trainable_variables
    }
    return [variable for variable in layer.trainable_variables if id(variable) not in norms]


def _load_weights(network: keras.Model, given: str) -> None:
    path = Path(given).expanduser()
    keras_file.require_weights(path)
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise errors.DataError(f"model.weights {path} do not fit {network.name}: {error}") from error
