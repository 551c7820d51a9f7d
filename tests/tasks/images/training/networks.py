"""A user's function that builds a tiny backbone."""

import keras


def tiny(size: int) -> keras.Model:
    """Three convolutions, a BatchNorm after each of the first two."""
    image = x = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    for number, width in enumerate((8, 12), start=1):
        x = keras.layers.Conv2D(width, 3, strides=2, name=f"conv{number}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"norm{number}")(x))
    return keras.Model(image, keras.layers.Conv2D(24, 3, activation="relu", padding="same", name="conv3")(x))
