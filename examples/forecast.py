"""Forecast of a time series: the next value of a generated series with two periods, a trend and noise.

tuner run examples/forecast.yaml
"""

import keras
import numpy as np


def series(length=800):
    """Return the values of a series (length,)."""
    time = np.arange(length)
    noise = np.random.default_rng(0).normal(scale=0.1, size=length)
    return (np.sin(time / 4) + 0.5 * np.sin(time / 19) + time / length + noise).astype(np.float32)


def load(hp):
    """Return windows and the values that follow them, in the order of time; the length of a window is searched."""
    values, window = series(), hp["window"]
    x = np.lib.stride_tricks.sliding_window_view(values, window)[:-1, :, None]
    y = values[window:]
    train = int(0.8 * len(x))
    return (x[:train], y[:train]), (x[train:], y[train:])


def build(hp):
    """Return a network of convolutions, or a dense one; filters act only in the first."""
    inputs = keras.layers.Input((hp["window"], 1))
    if hp["kind"] == "convolution":
        hidden = keras.layers.Conv1D(hp["filters"], 3, padding="causal", activation="relu")(inputs)
        hidden = keras.layers.Flatten()(hidden)
    else:
        hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer=keras.optimizers.Adam(hp["learning_rate"]), loss="mse", metrics=["mae"])
    return model
