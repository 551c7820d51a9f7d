"""Regression on a table: the progression of diabetes from ten measurements of 442 patients (scikit-learn's load_diabetes).

tuner run examples/diabetes.yaml
"""

import keras
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split


def load():
    """Return train, validation and test, each as (measurements, progression)."""
    x, y = load_diabetes(return_X_y=True)
    rest_x, test_x, rest_y, test_y = train_test_split(x, y, test_size=0.2, random_state=0)
    train_x, valid_x, train_y, valid_y = train_test_split(rest_x, rest_y, test_size=0.2, random_state=0)
    mean, spread = train_x.mean(axis=0), train_x.std(axis=0)
    return tuple((((x - mean) / spread).astype(np.float32), y) for x, y in ((train_x, train_y), (valid_x, valid_y), (test_x, test_y)))


def build(hp):
    """Return a small network whose form the study file gives."""
    model = keras.Sequential([keras.layers.Input((10,))])
    for _ in range(hp["layers"]):
        model.add(keras.layers.Dense(hp["units"], activation="relu"))
        model.add(keras.layers.Dropout(hp["dropout"]))
    model.add(keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(150.0)))
    return model
