"""A study on SQLite, and trials that are trained by hand."""

from tests.studies.conftest import begin, storage, study  # noqa: F401
