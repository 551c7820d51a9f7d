"""A standalone model: the weights of a trial as one Keras model of Keras layers only, from raw colors to probabilities."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import head
from tuner.spec.hyperparameters import Features, Hyperparameters
from tuner.tasks.images.training import backbones, evaluation
from tuner.tasks.images.training.study_context import StudyContext

Weights = Sequence[NDArray[np.float32]]
#: maximum deviation of a preprocessing from a weighted sum of the colors, as a share of its largest value
_ROUNDING = 1e-4
#: features whose variance is below this multiple of the smallest variance count as constant
_STILL = 2.0
#: names in the form for int8: of the layers that standardize the features of each depth, and of the first dense layer
STANDARDIZED, FIRST_DENSE = "tuner_standardize{}", "tuner_dense0"
_POOLINGS: dict[tuple[str, int], Callable[..., Any]] = {
    ("avg", 4): keras.layers.GlobalAveragePooling2D,
    ("max", 4): keras.layers.GlobalMaxPooling2D,
    ("avg", 3): keras.layers.GlobalAveragePooling1D,
    ("max", 3): keras.layers.GlobalMaxPooling1D,
}
#: from vectors (n, d) of each depth, hyperparameters, weights of the head and moments of the features to logits (n, classes)
_Top = Callable[[Sequence[Any], Hyperparameters, Weights, head.Moments], Any]


def build(context: StudyContext, hyperparameters: Hyperparameters, weights: Weights, *, temperature: float) -> keras.Model:
    """Build a float32 model from images (n, size, size, 3), colors from 0 to 255, to probabilities (n, classes).

    Raises:
        DataError: Keras layers cannot represent the preprocessing or a layer of the network.
    """
    return _built(context, hyperparameters, weights, temperature, _plain)


def build_for_int8(context: StudyContext, hyperparameters: Hyperparameters, weights: Weights, *, temperature: float) -> keras.Model:
    """Build the model in a form that suits 8 bits: a convolution, which has one scale per channel, standardizes each depth.

    Features that did not vary over the training images are set to zero, because 8 bits cannot represent their variation.

    Raises:
        DataError: for the same reasons as `build`.
    """
    return _built(context, hyperparameters, weights, temperature, _by_channels)


def _built(context: StudyContext, hyperparameters: Hyperparameters, weights: Weights, temperature: float, top: _Top) -> keras.Model:
    head_weights, opened = evaluation.split_weights(weights, hyperparameters)
    with evaluation.trained_backbone(context, hyperparameters, opened):
        image = keras.Input((context.backbone.size, context.backbone.size, 3), name="image")
        vectors = _vectors(context.backbone, image, hyperparameters.features)
        logits = top(vectors, hyperparameters, head_weights, context.moments(hyperparameters.features))
        if temperature != 1.0:
            logits = keras.layers.Rescaling(1.0 / temperature, name="tuner_temperature")(logits)
        return _independent_copy(keras.Model(image, keras.layers.Softmax(name="tuner_probabilities")(logits), name="classifier"))


def _vectors(backbone: backbones.Backbone, image: Any, kind: Features) -> list[Any]:
    """Return the pooled vectors (n, d) of each depth."""
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
            raise errors.DataError(
                f"the network cannot be exported: it returns tensors with {rank} axes, and Keras layers pool only 2 to 4"
            )
    return vectors


def _plain(vectors: Sequence[Any], hyperparameters: Hyperparameters, weights: Weights, moments: head.Moments) -> Any:
    """Standardize with a BatchNorm that is never trained; unlike a Normalization layer, every format stores its moments."""
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
    """Return Keras layers equal to a preprocessing: none, one that scales and shifts, or one that mixes colors.

    Raises:
        DataError: the preprocessing is none of these.
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
    """Measure the matrix (3, 3) and the offset (3,) that a preprocessing applies to the colors of each pixel."""
    images = np.zeros((5, size, size, 3), np.float32)
    for color in range(3):
        images[1 + color, ..., color] = 255
    images[4] = np.random.default_rng(0).integers(0, 256, images.shape[1:])
    found = np.asarray(keras.ops.convert_to_numpy(preprocess(images.copy())), np.float64)
    offset = found[0, 0, 0]
    matrix = ((found[1:4, 0, 0] - offset) / 255).T
    if found.shape != images.shape or np.abs(images @ matrix.T + offset - found).max() > _ROUNDING * np.abs(found).max():
        raise errors.DataError(
            "the network cannot be exported: its preprocessing is not a weighted sum of the colors of a pixel. "
            "Make the preprocessing part of the network, for example as a Keras layer"
        )
    return matrix, offset


def _independent_copy(model: keras.Model) -> keras.Model:
    """Return a copy that shares nothing with the backbone and computes in float32."""

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        return type(layer).from_config(config | {"dtype": "float32"} if "dtype" in config else config)

    try:
        copy = keras.models.clone_model(model, clone_function=copied)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise errors.DataError(f"the network cannot be exported: Keras cannot copy one of its layers: {error}") from error
    copy.set_weights(model.get_weights())
    return copy
