"""TensorFlow as a trainer uses it, and one small study for the tests of this folder."""

from tests.keras_studies import _as_in_the_trainer, _bench, _trainer, bench, cache, pictures, trainer  # noqa: F401
