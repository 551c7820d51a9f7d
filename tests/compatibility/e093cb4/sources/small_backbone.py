"""A backbone of 5,000 weights, which are the same in every process and with every version of Keras."""

from typing import Any

import numpy as np


def build(image_size: int) -> Any:
    import keras

    inputs = keras.Input((image_size, image_size, 3))
    values = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for number, filters in enumerate((8, 16, 24)):
        values = keras.layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu", name=f"convolution{number}")(values)
    network = keras.Model(inputs, values)
    generator = np.random.default_rng(0)
    network.set_weights([drawn(weight.shape, generator) for weight in network.get_weights()])
    return network


def drawn(shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """A kernel by He's rule, or a bias of zeros."""
    if len(shape) == 1:
        return np.zeros(shape)
    return generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
