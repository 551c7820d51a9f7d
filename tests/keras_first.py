"""Keras as a trainer imports it, for whoever imports this before it."""

from tuner.kernels import imports

imports.import_keras()
