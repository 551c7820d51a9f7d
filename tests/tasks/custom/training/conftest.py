"""Fixtures for tests with TensorFlow: it computes as in a trainer."""

from tests.keras_studies import _as_in_the_trainer  # noqa: F401
