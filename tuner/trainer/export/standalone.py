"""Kept weights of a trial into one Keras model that needs nothing of tuner: raw colours in, probabilities out, layers of Keras alone."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import head
from tuner.spec.hyperparameters import Features, Hyperparameters
from tuner.tasks.images.training import backbones, evaluation
from tuner.tasks.images.training.context import StudyContext

Weights = Sequence[NDArray[np.float32]]
#: what a preprocessing may be away from a weighted sum of the colours, as a part of its largest number
_ROUNDING = 1e-4
#: features of less than this many times the smallest variance did not vary
_STILL = 2.0
#: of the form for int8: the layers that standardize the features of each depth, and the one that sees them all
STANDARDIZED, FIRST_DENSE = "tuner_standardize{}", "tuner_dense0"
_POOLINGS: dict[tuple[str, int], Callable[..., Any]] = {
    ("avg", 4): keras.layers.GlobalAveragePooling2D,
    ("max", 4): keras.layers.GlobalMaxPooling2D,
    ("avg", 3): keras.layers.GlobalAveragePooling1D,
    ("max", 3): keras.layers.GlobalMaxPooling1D,
}


def build(bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights, *, temperature: float) -> keras.Model:
    """A model of images (n, size, size, 3), colours from 0 to 255, to probabilities (n, classes), in float32.

    Raises:
        DataError: the network's preprocessing or its layers cannot be written down with layers of Keras.
    """
    return _built(bench, hyperparameters, weights, temperature, _plain)


def build_for_int8(bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights, *, temperature: float) -> keras.Model:
    """The same in a form that bears 8 bits: features are standardized by a convolution, which has a scale a channel, depth by depth.

    Features that did not vary over the training images count for nothing: 8 bits cannot tell what they are when they do.

    Raises:
        DataError: as `build`.
    """
    return _built(bench, hyperparameters, weights, temperature, _by_channels)


#: vectors (n, d) of each depth, hyperparameters, weights of the head and moments of the features to logits (n, classes)
_Top = Callable[[Sequence[Any], Hyperparameters, Weights, head.Moments], Any]


def _built(bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights, temperature: float, top: _Top) -> keras.Model:
    head_weights, opened = evaluation.parted(weights, hyperparameters)
    with evaluation.opened_with(bench, hyperparameters, opened):
        image = keras.Input((bench.backbone.size, bench.backbone.size, 3), name="image")
        vectors = _vectors(bench.backbone, image, hyperparameters.features)
        logits = top(vectors, hyperparameters, head_weights, bench.moments(hyperparameters.features))
        if temperature != 1.0:
            logits = keras.layers.Rescaling(1.0 / temperature, name="tuner_temperature")(logits)
        return _alone(keras.Model(image, keras.layers.Softmax(name="tuner_probabilities")(logits), name="classifier"))


def _vectors(backbone: backbones.Backbone, image: Any, kind: Features) -> list[Any]:
    """Pooled vectors (n, d) of each depth."""
    x = image
    for layer in preprocessing(backbone.preprocess, backbone.size):
        x = layer(x)
    vectors = []
    for number, found in enumerate(backbone.maps(x, kind)):
        rank = len(found.shape)
        if rank == 2:
            vectors.append(found)
        elif (backbone.pooling, rank) in _POOLINGS:
            vectors.append(_POOLINGS[backbone.pooling, rank](name=f"tuner_pooling{number}")(found))
        else:
            raise errors.DataError(f"the network gives tensors of {rank} axes, which no layer of Keras pools; it cannot be exported")
    return vectors


def _plain(vectors: Sequence[Any], hyperparameters: Hyperparameters, weights: Weights, moments: head.Moments) -> Any:
    """Standardized by a BatchNorm that is never trained: all formats take its moments along, unlike those of a Normalization."""
    mean, variance = moments
    norm = keras.layers.BatchNormalization(center=False, scale=False, epsilon=0.0, name="tuner_standardize")
    x = norm(_joined(vectors), training=False)
    norm.set_weights([mean, np.maximum(variance, head.SMALLEST_VARIANCE)])
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        activation = hyperparameters.activation.value if 2 * number + 2 < len(weights) else None
        layer = keras.layers.Dense(len(bias), activation=activation, name=f"tuner_dense{number}")
        x = layer(x)
        layer.set_weights([kernel, bias])
    return x


def _by_channels(vectors: Sequence[Any], hyperparameters: Hyperparameters, weights: Weights, moments: head.Moments) -> Any:
    mean, variance = moments
    varies = variance > _STILL * head.SMALLEST_VARIANCE
    scale = np.where(varies, 1 / np.sqrt(np.maximum(variance, head.SMALLEST_VARIANCE)), 0).astype(np.float32)
    maps, first = [], 0
    for number, vector in enumerate(vectors):
        width = vector.shape[-1]
        own = slice(first, first + width)
        norm = keras.layers.DepthwiseConv2D(1, name=STANDARDIZED.format(number))
        maps.append(norm(keras.layers.Reshape((1, 1, width), name=f"tuner_map{number}")(vector)))
        norm.set_weights([scale[own].reshape(1, 1, width, 1), -mean[own] * scale[own]])
        first += width
    x = _joined(maps)
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        activation = hyperparameters.activation.value if 2 * number + 2 < len(weights) else None
        layer = keras.layers.Conv2D(len(bias), 1, activation=activation, name=f"tuner_dense{number}")
        x = layer(x)
        layer.set_weights([kernel[None, None], bias])
    return keras.layers.Flatten(name="tuner_logits")(x)


def _joined(vectors: Sequence[Any]) -> Any:
    return vectors[0] if len(vectors) == 1 else keras.layers.Concatenate(name="tuner_features")(vectors)


def preprocessing(preprocess: Callable[[Any], Any], size: int) -> list[keras.layers.Layer]:
    """What a network does with colours before its first layer, as the layers that do the same: none, a scale and an offset, or a mix.

    Raises:
        DataError: it is none of these.
    """
    matrix, offset = _measured(preprocess, size)
    if np.array_equal(matrix, np.eye(3)) and not offset.any():
        return []
    scale = np.diag(matrix)
    if np.array_equal(matrix, np.diag(scale)):
        if np.ptp(scale) == 0 and np.ptp(offset) == 0:
            return [keras.layers.Rescaling(float(scale[0]), offset=float(offset[0]), name="tuner_colours")]
        return [keras.layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="tuner_colours")]
    layer = keras.layers.Conv2D(3, 1, name="tuner_colours")
    layer.build((None, size, size, 3))
    layer.set_weights([matrix.T[None, None], offset])
    return [layer]


def _measured(preprocess: Callable[[Any], Any], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix (3, 3) and offset (3,) that a preprocessing multiplies and shifts each pixel's colours by."""
    images = np.zeros((5, size, size, 3), np.float32)
    for colour in range(3):
        images[1 + colour, ..., colour] = 255
    images[4] = np.random.default_rng(0).integers(0, 256, images.shape[1:])
    found = np.asarray(keras.ops.convert_to_numpy(preprocess(images.copy())), np.float64)
    offset = found[0, 0, 0]
    matrix = ((found[1:4, 0, 0] - offset) / 255).T
    if found.shape != images.shape or np.abs(images @ matrix.T + offset - found).max() > _ROUNDING * np.abs(found).max():
        raise errors.DataError(
            "what the network does with colours before its first layer is no sum of them, so that it cannot be part of the model; "
            "build it into the network, for example as a layer of Keras"
        )
    return matrix, offset


def _alone(model: keras.Model) -> keras.Model:
    """A copy that shares nothing with the backbone, and computes in float32 wherever it was trained."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        return type(layer).from_config(config | {"dtype": "float32"} if "dtype" in config else config)

    try:
        alone = keras.models.clone_model(model, clone_function=copied)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise errors.DataError(f"a layer of the network cannot be written down, so that the network cannot be exported: {error}") from error
    alone.set_weights(model.get_weights())
    return alone
