"""A model and images into its accuracy on them as they are, as a bad camera would have them, and under a small attack.

The attack is the fast gradient sign method (Goodfellow et al., arXiv 1412.6572): each colour moves by a few of its 255 steps, to the
side on which the loss grows. It is made against the logits: through a softmax that is sure of itself no gradient comes.
"""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import errands
from tuner.data import corruptions

Pixels = NDArray[np.uint8]
#: how far the attack moves a colour, of 255
FGSM_STEPS = (1.0, 2.0, 4.0)
FGSM = "fgsm"
_BATCH = 64
_SEED = 0
_LEAST = 1e-12


def measure(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> tuple[errands.Robust, ...]:
    """The accuracy under each corruption at each of its strengths, then under the attack."""
    return (*_corrupted(model, images, labels), *_attacked(model, images, labels))


def probabilities(model: keras.Model, images: NDArray[np.generic]) -> NDArray[np.float32]:
    """What the model makes of images (n, size, size, 3), colours from 0 to 255."""
    found = [np.asarray(model(tf.constant(images[start : start + _BATCH], tf.float32), training=False)) for start in _starts(images)]
    return np.concatenate(found)


def accuracy(found: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The part of the images whose class has the highest probability."""
    return float((found.argmax(1) == labels).mean())


def _corrupted(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> Iterator[errands.Robust]:
    for kind, strengths in corruptions.STRENGTHS.items():
        for strength in strengths:
            found = probabilities(model, corruptions.corrupt(images, kind, strength, seed=_SEED))
            yield errands.Robust(corruption=kind.value, strength=strength, accuracy=accuracy(found, labels))


def _attacked(model: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> Iterator[errands.Robust]:
    logits = _without_softmax(model)
    signs = [_signs(logits, images[start : start + _BATCH], labels[start : start + _BATCH]) for start in _starts(images)]
    if any(sign is None for sign in signs):
        return
    sign = np.concatenate([sign for sign in signs if sign is not None])
    for steps in FGSM_STEPS:
        attacked = np.clip(images + steps * sign, 0, 255).astype(np.float32)
        yield errands.Robust(corruption=FGSM, strength=steps, accuracy=accuracy(probabilities(model, attacked), labels))


def _signs(logits: keras.Model, images: Pixels, labels: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The side on which the loss grows, for each colour of each pixel; None where no gradient comes through."""
    given = tf.constant(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits(given, training=False)))
    gradient = tape.gradient(loss, given)
    return None if gradient is None else np.sign(gradient.numpy())


def _without_softmax(model: keras.Model) -> keras.Model:
    """The model up to its logits; of one that ends otherwise, the logarithm of its probabilities."""
    last = model.layers[-1]
    is_softmax = isinstance(last, keras.layers.Softmax) or getattr(last, "activation", None) is keras.activations.softmax
    if isinstance(last, keras.layers.Softmax | keras.layers.Activation) and is_softmax:
        return keras.Model(model.inputs[0], last.input)
    return keras.Model(model.inputs[0], keras.ops.log(keras.ops.maximum(model.outputs[0], _LEAST)))


def _starts(images: NDArray[np.generic]) -> range:
    return range(0, len(images), _BATCH)
