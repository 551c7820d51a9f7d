"""Studies on each kind of database, and worker processes that can be killed."""

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
    """A storage that many tests share, each with a study of its own."""
    return shared_storage


@pytest.fixture
def begin(storage: Storage) -> Begin:
    """Join this test's study, whose file has the given sections beside the name and the data."""
    name = f"study-{secrets.token_hex(4)}"
    return lambda **sections: studies.join(by_hand.spec(name=name, **sections), storage)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Starts processes from one that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "tests.integration.hands", "alembic.command", "psycopg", "pymysql", "optuna.samplers._tpe.sampler"]
    )
    return context


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """A folder in which processes leave marks for the test."""
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder
