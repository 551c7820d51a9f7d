"""The `model` section of a study into a pretrained network that ends in a feature map or vector."""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import keras
import numpy as np

from tuner import errors, spec
from tuner.training import lite0, squeezenet

#: a network without block names of its own is cut into this many parts of about as many layers
NUM_PARTS = 16
_NORMS = (keras.layers.BatchNormalization,)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network and how it is fed, read and unfrozen."""

    #: preprocessed images (n, size, size, 3) to a feature map (n, h, w, d) or vector (n, d)
    network: keras.Model
    #: colours from 0 to 255 into what the network was trained on
    preprocess: Callable[[Any], Any]
    #: names of the layers that fine-tuning may train, block by block from the bottom; BatchNorms are never among them
    blocks: tuple[tuple[str, ...], ...]
    pooling: str

    def features(self, images: Any) -> Any:
        """Images (n, size, size, 3), colours from 0 to 255, to vectors (n, d). BatchNorms and dropouts are in inference mode."""
        output = self.network(self.preprocess(images), training=False)
        if len(output.shape) == 2:
            return output
        axes = tuple(range(1, len(output.shape) - 1))
        return keras.ops.mean(output, axes) if self.pooling == "avg" else keras.ops.max(output, axes)

    def top(self, unfreeze: float) -> list[tuple[int, keras.Variable]]:
        """Variables of the topmost blocks, a given part of all, each with how many blocks lie above its own."""
        count = len(self.blocks)
        opened = self.blocks[count - num_unfrozen(unfreeze, count) :]
        return [
            (depth, variable)
            for depth, names in enumerate(reversed(opened))
            for name in names
            for variable in self.network.get_layer(name).trainable_variables
        ]

    def digest(self) -> str:
        """SHA-256 over the weights."""
        content = hashlib.sha256(self.pooling.encode())
        for variable in self.network.variables:
            content.update(variable.path.encode())
            content.update(np.ascontiguousarray(variable).tobytes())
        return content.hexdigest()


def num_unfrozen(unfreeze: float, num_blocks: int) -> int:
    """How many of the blocks a part of them comes to: 0 only for 0."""
    return min(num_blocks, max(1, round(unfreeze * num_blocks))) if unfreeze > 0 else 0


def load(model: spec.Model) -> Backbone:
    """The network that a study names, with its weights.

    Raises:
        DataError: the network or weights file is not there, or is not what was named.
        MissingDownload: its weights would have to be downloaded and cannot be.
        MissingPackage: it needs an extra that is not installed.
    """
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


_OWN: Mapping[str, Any] = {"efficientnet_lite0": lite0, "squeezenet1_1": squeezenet}


def _load_own(model: spec.Model) -> Backbone:
    module = _OWN[model.backbone]
    network, blocks = module.build(model.image_size)
    if model.weights == "imagenet":
        module.load_imagenet(network)
    elif model.weights != "none":
        _load_weights(network, model.weights)
    return Backbone(network=network, preprocess=module.preprocess, blocks=blocks, pooling=model.pooling)


def _load_application(model: spec.Model) -> Backbone:
    build = getattr(keras.applications, model.backbone, None)
    if not callable(build):
        known = [*_OWN, *sorted(name for name in dir(keras.applications) if name[0].isupper())]
        raise errors.DataError(
            f"model.backbone is {model.backbone}; expected one of {', '.join(known)}, a .keras file, kerashub:PRESET or python:MODULE:FUNCTION"
        )
    weights = "imagenet" if model.weights == "imagenet" else None
    shape = (model.image_size, model.image_size, 3)
    try:
        network = build(include_top=False, weights=weights, input_shape=shape)
    except (URLError, OSError) as error:
        raise _unreachable(f"The ImageNet weights of {model.backbone}", error) from error
    except ValueError as error:
        raise errors.DataError(
            f"model.backbone {model.backbone} cannot be built for model.image_size {model.image_size}: {error}"
        ) from error
    except Exception as error:  # keras.utils.get_file raises a bare Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        raise _unreachable(f"The ImageNet weights of {model.backbone}", error) from error
    if model.weights not in ("imagenet", "none"):
        _load_weights(network, model.weights)
    return Backbone(network=network, preprocess=_preprocessing_of(build), blocks=_parts(network), pooling=model.pooling)


def _preprocessing_of(build: Callable[..., keras.Model]) -> Callable[[Any], Any]:
    """The `preprocess_input` of the keras.applications module that a network comes from."""
    for module in vars(keras.applications).values():
        if getattr(module, build.__name__, None) is build and hasattr(module, "preprocess_input"):
            # some of them write into a numpy array they are given; a tensor they leave alone
            return lambda images: module.preprocess_input(keras.ops.convert_to_tensor(images))
    raise errors.DataError(f"model.backbone {build.__name__} has no preprocessing in keras.applications")


def _load_file(model: spec.Model) -> Backbone:
    path = Path(model.backbone).expanduser()
    if not path.is_file():
        raise errors.DataError(f"model.backbone is {model.backbone}, which is not a file; expected a model saved by Keras")
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError) as error:
        raise errors.DataError(f"model.backbone {path} cannot be loaded: {error}") from error
    return _wrapped(network, model)


def _load_function(model: spec.Model) -> Backbone:
    module_name, _, function_name = model.backbone.removeprefix("python:").partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        build = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise errors.DataError(f"model.backbone {model.backbone} cannot be imported: {error}. Expected python:MODULE:FUNCTION") from error
    finally:
        sys.path.pop(0)
    network = build(model.image_size)
    if not isinstance(network, keras.Model):
        raise errors.DataError(
            f"model.backbone {model.backbone} returned {type(network).__name__}; expected a keras.Model of images (n, {model.image_size}, {model.image_size}, 3)"
        )
    return _wrapped(network, model)


def _load_kerashub(model: spec.Model) -> Backbone:
    try:
        import keras_hub
    except ImportError as error:
        raise errors.MissingPackage("keras-hub", extra="kerashub", needed_for=f"model.backbone {model.backbone}") from error
    preset = model.backbone.removeprefix("kerashub:")
    try:
        network = keras_hub.models.Backbone.from_preset(preset, load_weights=model.weights == "imagenet")
        convert = keras_hub.layers.ImageConverter.from_preset(preset, image_size=(model.image_size, model.image_size))
    except (OSError, ValueError) as error:
        raise _unreachable(f"The KerasHub preset {preset}", error) from error
    return Backbone(network=network, preprocess=convert, blocks=_parts(network), pooling=model.pooling)


def _wrapped(network: keras.Model, model: spec.Model) -> Backbone:
    """A network of the user's: it does its own preprocessing, and a last Dense layer is its old head and taken off."""
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4:
        raise errors.DataError(
            f"model.backbone {model.backbone} has the input {network.input_shape}; expected images (n, height, width, 3)"
        )
    if isinstance(network.layers[-1], keras.layers.Dense) and len(network.layers) > 1:
        network = keras.Model(network.input, network.layers[-1].input)
    return Backbone(network=network, preprocess=lambda images: images, blocks=_parts(network), pooling=model.pooling)


def _parts(network: keras.Model) -> tuple[tuple[str, ...], ...]:
    """The layers with weights, BatchNorms aside, in up to NUM_PARTS parts of about equal length."""
    names = [layer.name for layer in network.layers if layer.trainable_weights and not isinstance(layer, _NORMS)]
    parts = np.array_split(np.array(names, dtype=object), min(NUM_PARTS, len(names)) or 1)
    return tuple(tuple(part) for part in parts)


def _load_weights(network: keras.Model, given: str) -> None:
    path = Path(given).expanduser()
    if not path.is_file():
        raise errors.DataError(f"model.weights is {given}; expected imagenet, none, or a file of weights that Keras saved (.weights.h5)")
    try:
        network.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise errors.DataError(f"model.weights {path} do not fit {network.name}: {error}") from error


def _unreachable(what: str, error: Exception) -> errors.MissingDownload:
    cure = "Use efficientnet_lite0, whose weights are installed with tuner, set model.weights to a file or to none, or run once where the download is reachable"
    return errors.MissingDownload(f"{what} cannot be downloaded ({error}). {cure}.")
