"""The new top of a network: features in, one logit a class out."""

import keras
import numpy as np
from numpy.typing import NDArray

from tuner.hyperparameters import Hyperparameters

#: mean and variance (d,)
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]
_SMALLEST_VARIANCE = 1e-6


def build(hyperparameters: Hyperparameters, moments: Moments, num_classes: int, *, seed: int) -> keras.Sequential:
    """A head for features (n, d) whose mean and variance (d,) over the training images are `moments`.

    Features are first brought to mean 0 and variance 1 by constants of the training features; unlike a BatchNorm's, they are the same
    in training and in use, and do not drift while the backbone is fine-tuned.
    """
    layers: list[keras.Layer] = [_normalization(moments)]
    for number, units in enumerate(hyperparameters.head_units):
        layers += _dropout(hyperparameters.dropout, seed + number)
        initializer = keras.initializers.HeNormal(seed=seed + number)
        layers.append(keras.layers.Dense(units, hyperparameters.activation.value, kernel_initializer=initializer))
    layers += _dropout(hyperparameters.dropout, seed + len(hyperparameters.head_units))
    layers.append(keras.layers.Dense(num_classes, kernel_initializer=keras.initializers.GlorotUniform(seed=seed), name="logits"))
    return keras.Sequential([keras.Input((len(moments[0]),)), *layers], name="head")


def _normalization(moments: Moments) -> keras.Layer:
    mean, variance = moments
    return keras.layers.Normalization(mean=mean, variance=np.maximum(variance, _SMALLEST_VARIANCE))


def _dropout(rate: float, seed: int) -> list[keras.Layer]:
    return [keras.layers.Dropout(rate, seed=seed)] if rate > 0 else []
