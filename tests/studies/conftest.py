"""Fixtures: a study on SQLite, and trials trained by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.study import Study


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = storages.open(databases.sqlite(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def begin(storage: Storage) -> Callable[..., Study]:
    """Join a study whose file has the given sections, a name and data."""
    return lambda **sections: studies.join(by_hand.spec(**sections), storage)


@pytest.fixture
def study(begin: Callable[..., Any]) -> Study:
    joined = begin()
    assert isinstance(joined, Study)
    return joined
