"""Fixtures for tests with TensorFlow: a small study, and a trainer process."""

from tests.keras_studies import _as_in_the_trainer, _context, _trainer, cache, context, pictures, trainer  # noqa: F401
