"""A standalone model: the weights of a trial as one Keras model of Keras layers only, from raw colors to probabilities."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from tuner import errors
from tuner.kernels import checkpoints, head
from tuner.kernels.targets import ImageTarget, Number
from tuner.protocol import messages
from tuner.spec.hyperparameters import Features, Hyperparameters, TargetKind
from tuner.tasks.images.training import backbones, evaluation
from tuner.tasks.images.training.fine_tune import Teaching
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


def averaged(models: Sequence[keras.Model], *, mirrored: bool, size: int | None = None) -> keras.Model:
    """Build one model that returns the mean probabilities (n, classes) of several, over each image and, if asked, its mirror image.

    It takes images (n, size, size, 3), by default of the largest size; models of another size get them resized as Pillow resizes them.
    """
    size = size or max(model.inputs[0].shape[1] for model in models)
    image = keras.Input((size, size, 3), name="image")
    versions: dict[tuple[int, bool], Any] = {}
    found = []
    for number, model in enumerate(models):
        member = keras.Model(model.inputs[0], model.outputs[0], name=f"tuner_member{number}")
        for is_mirrored in (False, True) if mirrored else (False,):
            wanted = (model.inputs[0].shape[1], is_mirrored)
            if wanted not in versions:
                versions[wanted] = _resampled(image, *wanted)
            found.append(member(versions[wanted]))
    mean = found[0] if len(found) == 1 else keras.layers.Average(name="tuner_mean")(found)
    return keras.Model(image, mean, name="classifier")


def teacher(context: StudyContext, asked: messages.Teacher, context_of: Callable[[Hyperparameters], StudyContext]) -> Teaching:
    """Return the function that gives the members' mean probabilities for images as targets; the members stay in memory with it.

    Teacher and student see the same augmented image. Sources: Hinton and others, Distilling the knowledge in a neural network (arXiv
    1503.02531); Beyer and others, Knowledge distillation: a good teacher is patient and consistent (arXiv 2106.05237).

    Args:
        context: that of the student.
        asked: the members of the teacher, and their share in the targets.
        context_of: the context of a member, by its hyperparameters.

    Raises:
        DataError: the weights of a member belong to another study, or its network cannot be copied.
        FileNotFoundError: the weights of a member no longer exist.
    """
    size, models = context.backbone.size, []
    for member in asked.members:
        own = context_of(member.hyperparameters)
        weights = checkpoints.read_weights(Path(member.weights), study=own.identity)
        models.append(build(own, member.hyperparameters, weights, temperature=1.0))
    ensemble = averaged(models, mirrored=False, size=size)

    learned = context.target

    def teach(images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        taught = ensemble(images, training=False)
        if isinstance(learned, Number):
            taught = (taught - learned.mean) / learned.deviation
        return asked.share * taught + (1.0 - asked.share) * targets

    given = [tf.TensorSpec([None, size, size, 3]), tf.TensorSpec([None, context.num_classes])]
    traced: Teaching = tf.function(teach, input_signature=given, autograph=False)
    return traced


def _resampled(image: Any, size: int, is_mirrored: bool) -> Any:
    """Return images (n, side, side, 3) resized to a size, and mirrored if asked, by two products with constant matrices.

    Unlike an antialiased Resizing layer, every format can represent them.
    """
    side = image.shape[1]
    found = image
    suffix = f"{size}_mirrored" if is_mirrored else str(size)
    for axis, equation in (("rows", "nhwc,hk->nkwc"), ("columns", "nhwc,wk->nhkc")):
        flips = is_mirrored and axis == "columns"
        if size == side and not flips:
            continue
        shape = (size, found.shape[2], 3) if axis == "rows" else (found.shape[1], size, 3)
        layer = keras.layers.EinsumDense(equation, output_shape=shape, trainable=False, name=f"tuner_{axis}_{suffix}")
        found = layer(found)
        matrix = _resizing(side, size)
        layer.set_weights([matrix[:, ::-1] if flips else matrix])
    return found


def _resizing(side: int, size: int) -> NDArray[np.float32]:
    """Return the matrix (side, size) that resizes `side` pixels to `size` with a bicubic filter, measured on Pillow itself."""
    if side == size:
        return np.eye(side, dtype=np.float32)
    lines = Image.fromarray(np.eye(side, dtype=np.float32))  # in line i only pixel i is 1
    return np.asarray(lines.resize((size, side), Image.Resampling.BICUBIC), np.float32)


def _built(context: StudyContext, hyperparameters: Hyperparameters, weights: Weights, temperature: float, top: _Top) -> keras.Model:
    head_weights, opened = evaluation.split_weights(weights, hyperparameters)
    with evaluation.trained_backbone(context, hyperparameters, opened):
        image = keras.Input((context.backbone.size, context.backbone.size, 3), name="image")
        vectors = _vectors(context.backbone, image, hyperparameters.features)
        logits = top(vectors, hyperparameters, head_weights, context.moments(hyperparameters))
        if temperature != 1.0:
            logits = keras.layers.Rescaling(1.0 / temperature, name="tuner_temperature")(logits)
        return _independent_copy(keras.Model(image, _answer(context.target, logits), name="classifier"))


def _answer(target: ImageTarget, logits: Any) -> Any:
    """Return probabilities, or a number in the units of the user."""
    if isinstance(target, Number):
        return keras.layers.Rescaling(target.deviation, offset=target.mean, name="tuner_number")(logits)
    if target.kind is TargetKind.LABELS:
        return keras.layers.Activation("sigmoid", name="tuner_probabilities")(logits)
    return keras.layers.Softmax(name="tuner_probabilities")(logits)


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
