"""Fixtures: a storage with a queue, and workers of the pool without trainers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.queue import entries, pool
from tuner.queue.entries import Entry, Submission
from tuner.queue.pool import Abilities
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies.leases import WorkerId


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = storages.open(databases.sqlite(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def submit(storage: Storage) -> Callable[..., Entry]:
    """Submit a study of one trial, unless it says otherwise; the keywords are those of `Submission`."""

    def submit(name: str, *, trials: int = 1, **asked: Any) -> Entry:
        spec = by_hand.spec(name=name, budget={"trials": trials})
        return entries.submit(storage, spec, Submission(**({"owner": "ann"} | asked)))

    return submit


@pytest.fixture
def hire(storage: Storage) -> Callable[..., WorkerId]:
    """Register a worker; the keywords are those of `Abilities`."""

    def hire(name: str, **abilities: Any) -> WorkerId:
        worker = WorkerId.here(name)
        pool.register(storage, worker, Abilities(**abilities))
        return worker

    return hire
