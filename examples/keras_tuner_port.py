"""A hypermodel written for KerasTuner, with a `fit` of its own.

The file needs no package keras_tuner: only the base class is gone, `class Digits:` instead of `class Digits(keras_tuner.HyperModel):`.
Where keras_tuner is installed, the base class can stay.

tuner run examples/keras_tuner_port.yaml
"""

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def load():
    """Return train and validation as (pictures, digits)."""
    x, y = load_digits(return_X_y=True)
    train_x, valid_x, train_y, valid_y = train_test_split(x / 16, y, test_size=0.2, random_state=0)
    return (train_x, train_y), (valid_x, valid_y)


class Digits:
    """Builds and trains a classifier of digits."""

    def build(self, hp):
        """Return a dense network, or a convolutional one with its own hyperparameters."""
        kind = hp.Choice("kind", ["dense", "convolutional"])
        model = keras.Sequential([keras.layers.Input((64,))])
        with hp.conditional_scope("kind", ["dense"]):
            if kind == "dense":
                for number in range(hp.Int("layers", 1, 2)):
                    model.add(keras.layers.Dense(hp.Int(f"units_{number}", 16, 64, step=16), activation="relu"))
        with hp.conditional_scope("kind", ["convolutional"]):
            if kind == "convolutional":
                model.add(keras.layers.Reshape((8, 8, 1)))
                model.add(keras.layers.Conv2D(hp.Int("filters", 4, 16, step=2, sampling="log"), 3, activation="relu"))
                model.add(keras.layers.Flatten())
        if hp.Boolean("dropout"):
            model.add(keras.layers.Dropout(0.25))
        model.add(keras.layers.Dense(10, activation="softmax"))
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def fit(self, hp, model, *args, **kwargs):
        """Train with a searched batch size."""
        return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32, 64]), shuffle=hp.Boolean("shuffle", default=True), **kwargs)
