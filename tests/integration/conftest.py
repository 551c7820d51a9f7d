"""Fixtures: studies on each kind of database, and worker processes that can be killed."""

import multiprocessing
import secrets
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from tests.studies import by_hand
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.study import Study

Begin = Callable[..., Study]


@pytest.fixture(scope="session")
def storage(shared_storage: Storage) -> Storage:
    """A storage that many tests share; each test has its own study."""
    return shared_storage


@pytest.fixture
def begin(storage: Storage) -> Begin:
    """Join this test's study, whose file has the given sections, a name and data."""
    name = f"study-{secrets.token_hex(4)}"
    return lambda **sections: studies.join(by_hand.spec(name=name, **sections), storage)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """A context that starts processes from a server with all imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "tests.integration.worker_processes", "alembic.command", "psycopg", "pymysql", "optuna.samplers._tpe.sampler"]
    )
    return context


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which processes create files for the test."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder
