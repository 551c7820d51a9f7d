"""An autoencoder: 8 x 8 pictures of digits (scikit-learn's load_digits) through a narrow code, and back.

tuner run examples/autoencoder.yaml
"""

import keras
import numpy as np
from sklearn.datasets import load_digits

#: a wider code always restores better, so that each number in the code costs something
COST = 0.001


def load():
    """Return train and validation; a picture is also what the model must return."""
    x = (load_digits().data / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    train, validation = x[order[:1400]], x[order[1400:]]
    return (train, train), (validation, validation)


class Autoencoder(keras.Model):
    """An encoder and a decoder."""

    def __init__(self, units, code):
        super().__init__()
        self.code = code
        self.encoder = keras.Sequential([keras.layers.Dense(units, activation="relu"), keras.layers.Dense(code)])
        self.decoder = keras.Sequential([keras.layers.Dense(units, activation="relu"), keras.layers.Dense(64, activation="sigmoid")])

    def call(self, x):
        """Return the restored pictures."""
        self.add_loss(keras.ops.convert_to_tensor(COST * self.code))
        return self.decoder(self.encoder(x))


def build(hp):
    """Return a compiled autoencoder."""
    model = Autoencoder(units=hp.Int("units", 32, 128, sampling="log"), code=hp.Int("code", 2, 16))
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")), loss="mse")
    return model
