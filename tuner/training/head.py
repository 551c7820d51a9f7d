"""The new top of a network: features in, one logit a class out."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.hyperparameters import Activation, Hyperparameters
from tuner.training import columns

#: kernel and bias of each layer, from the backbone upwards
Weights = Sequence[Any]
#: by name, as a mixed precision of Keras must not reach the head
_FLOAT = "float32"


def initial(hyperparameters: Hyperparameters, num_features: int, num_classes: int, *, seed: int) -> list[NDArray[np.float32]]:
    """Kernel (d, units) and bias (units,) of each layer, as Keras' initializers draw them."""
    widths = [num_features, *hyperparameters.head_units]
    weights: list[NDArray[np.float32]] = []
    for number, shape in enumerate(itertools.pairwise(widths)):
        weights += _layer(keras.initializers.HeNormal(seed=seed + number), shape)
    return weights + _layer(keras.initializers.GlorotUniform(seed=seed), (widths[-1], num_classes))


def _layer(initializer: keras.Initializer, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    return [keras.ops.convert_to_numpy(initializer(shape, dtype=_FLOAT)), np.zeros(shape[1], np.float32)]


def standardize(features: tf.Tensor, moments: columns.Moments | tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Features (n, d) brought to mean 0 and variance 1 by moments of the training features.

    Unlike a BatchNorm's, the moments are the same in training and in use, and do not drift while the backbone is fine-tuned.
    """
    mean, variance = moments
    return (tf.cast(features, tf.float32) - mean) / tf.sqrt(tf.maximum(variance, columns.SMALLEST_VARIANCE))


def forward(weights: Weights, features: tf.Tensor, *, activation: Activation | str, masks: Sequence[tf.Tensor] | None = None) -> tf.Tensor:
    """Logits (n, classes) of standardized features (n, d).

    Weights may have a leading axis of heads: kernels (H, d, units), biases (H, 1, units), features (n, d) or (H, n, d), logits
    (H, n, classes). `masks` are what dropout multiplies the inputs of each layer with; None: there is no dropout.
    """
    activate, x = _ACTIVATIONS[Activation(activation)], tf.cast(features, tf.float32)
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        if number:
            x = activate(x)
        if masks is not None:
            x = x * masks[number]
        x = tf.matmul(x, kernel) + bias
    return x


_ACTIVATIONS: Mapping[Activation, Callable[[tf.Tensor], tf.Tensor]] = {
    activation: keras.activations.get(activation.value) for activation in Activation
}
