"""Fixtures: a study on SQLite whose trials are reported by hand, without a trainer."""

from tests.studies.conftest import begin, storage, study  # noqa: F401
