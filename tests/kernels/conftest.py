"""TensorFlow as a trainer uses it, and one small study for the tests of this folder."""

from tests.keras_studies import _as_in_the_trainer, _context, _trainer, cache, context, pictures, trainer  # noqa: F401
