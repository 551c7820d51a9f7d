"""Keras as a trainer imports it, for whoever imports this before it."""

from tuner.training import importing

importing.import_keras()
