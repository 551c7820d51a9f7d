"""Fixtures: a study on SQLite, and trials trained by hand."""

from tests.studies.conftest import begin, storage, study  # noqa: F401
