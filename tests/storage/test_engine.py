"""Opening a database, and the messages if that fails."""

import inspect
import sqlite3
import sys
import threading
from pathlib import Path

import optuna
import psycopg
import pytest
from sqlalchemy import Connection, text

from tuner.errors import MissingPackage, RequestError, StorageError
from tuner.storage import engine as storages
from tuner.storage.engine import Storage


@pytest.mark.parametrize(
    ("url", "words"),
    [
        # a path instead of a URL
        ("tuner.db", ["tuner.db is not a database URL", "sqlite:///tuner.db"]),
        ("", ["is not a database URL"]),
        ("postgres://me:secret@host/db", ["write postgresql:// instead"]),
        ("oracle://me:secret@host/db", ["driver"]),
        ("nonsense://me:secret@host/db", ["driver nonsense", "sqlite, postgresql or mysql"]),
        ("postgresql+nodriver://me:secret@host/db", ["driver postgresql+nodriver"]),
        # a database that no other process can see
        ("sqlite://", ["in memory", "sqlite:///tuner.db"]),
        ("sqlite:///:memory:", ["in memory"]),
        # SQLAlchemy would leave the first folder out
        ("sqlite://data/tuner.db", ["two slashes", "sqlite:///data/tuner.db", "sqlite:////data/tuner.db"]),
        ("sqlite://tuner.db", ["sqlite:///tuner.db"]),
        # three slashes, and an absolute path meant
        ("sqlite:///usr/bin/tuner.db", ["write four slashes: sqlite:////usr/bin/tuner.db"]),
        ("sqlite:////no/such/folder/tuner.db", ["the folder /no/such/folder does not exist"]),
        # no server listens on this port
        ("postgresql://me:secret@127.0.0.1:1/db", ["postgresql://me:***@127.0.0.1:1/db", "no server listens there"]),
        ("postgresql://me:secret@no-such-host.invalid/db", ["the host is unknown"]),
        ("postgresql://me:secret@127.0.0.1:1/db?nonsense=1", ["nonsense"]),
        ("postgresql://me:secret@secret@127.0.0.1:1/db", ["postgresql://***@127.0.0.1:1/db", "must be written as %40"]),
        ("postgresql:/me:secret@host/db", ["***@host/db is not a database URL"]),
    ],
)
def test_a_database_that_cannot_be_opened_is_explained_without_its_password(url: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as raised:
        storages.open(url)
    for word in words:
        assert word in str(raised.value)
    assert "secret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_mysql_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(MissingPackage, match=r"pip install 'tuner\[mysql\]'"):
        storages.open("mysql://me:secret@127.0.0.1:1/db")


def test_a_folder_is_refused_as_a_database(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder"):
        storages.open(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_does_not_change(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("these are my notes, not a database " * 100)
    with pytest.raises(StorageError, match="is not an SQLite database"):
        storages.open(f"sqlite:///{file}")
    assert file.read_text().startswith("these are my notes")


def test_a_read_only_file_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "tuner.db"
    storages.open(f"sqlite:///{file}").close()
    with pytest.raises(StorageError, match="it is read-only"):
        storages.open(f"sqlite:///file:{file}?mode=ro&uri=true")


def test_a_database_of_another_version_of_optuna_is_refused_and_does_not_change(tmp_path: Path) -> None:
    file = tmp_path / "tuner.db"
    storages.open(f"sqlite:///{file}").close()
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    connection.close()
    with pytest.raises(StorageError, match="another version of Optuna"):
        storages.open(f"sqlite:///{file}")


def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tuner.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE version_info (id INTEGER)")
    connection.close()
    with pytest.raises(StorageError, match="another program created its tables"):
        storages.open(f"sqlite:///{file}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?password=hidden&user=me"),
        ("sqlite:///tuner.db", "sqlite:///tuner.db"),
        ("tuner.db", "tuner.db"),
        # a path may contain an @
        ("sqlite:////home/me@work/tuner.db", "sqlite:////home/me%40work/tuner.db"),
        # a user may contain an @
        ("postgresql://me@work:secret@host/db", "postgresql://me%40work:***@host/db"),
        ("postgresql://host/db?PASSWORD=secret", "postgresql://host/db?PASSWORD=hidden"),
        ("postgresql://host/db?options=-cpassword%3Dsecret", "postgresql://host/db?options=hidden"),
        # a port that is not a number
        ("postgresql://me:secret@host:port/db", "postgresql://***@host:port/db"),
        # not a URL
        ("postgresql:/me:secret@host/db", "***@host/db"),
        ("me:secret@host/db", "***@host/db"),
        ("postgresql:me:secret@host/db", "***@host/db"),
        ("postgresql:/host/db?password=secret", "***"),
        ("host=db.example user=me password=secret", "***"),
        ("host=db.example user=me password=secret@cret", "***"),
        ("postgresql:me:secret", "***"),
        ("my tuner.db", "my tuner.db"),
        # no host
        ("postgresql://me:secret/db", "postgresql://***"),
        # an @ in the password, alone and with a slash
        ("postgresql://me:se@cret@host:1/db", "postgresql://***@host:1/db"),
        ("postgresql://me:se@se/cret@host/db?password=secret", "postgresql://***@host/db"),
        ("postgresql://me:se?se@cret@host:port/db", "postgresql://***@host:port/db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert storages.shown(url) == shown


def test_a_storage_shows_no_password_in_a_traceback(storage: Storage) -> None:
    assert storage.url not in repr(storage)


def test_a_reader_does_not_wait_for_a_writer(storage: Storage) -> None:
    def write(connection: Connection) -> int:
        connection.execute(text("UPDATE version_info SET library_version = 'changed'"))
        return int(storage.read(lambda reading: reading.execute(text("SELECT count(*) FROM studies"))).scalar_one())

    assert storage.write(write) == 0


def test_a_writer_that_reads_first_waits_for_other_writers(storage: Storage) -> None:
    has_read, results = threading.Barrier(2, timeout=120), []

    def add_one(connection: Connection) -> None:
        count = connection.execute(text("SELECT count(*) FROM studies")).scalar_one()
        connection.execute(text(f"INSERT INTO studies (study_name) VALUES ('study {count}')"))

    def work() -> None:
        has_read.wait()
        for _ in range(20):
            storage.write(add_one)
        results.append("done")

    hands = [threading.Thread(target=work) for _ in range(2)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert results == ["done", "done"]
    assert len(optuna.get_all_study_names(storage.rdb)) == 40


def test_a_transient_error_is_retried(storage: Storage) -> None:
    tries = []

    def work() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise optuna.exceptions.StorageInternalError from sqlite3.OperationalError("database is locked")
        return "done"

    assert storage.call(work) == "done"


def test_a_permanent_error_is_not_retried(storage: Storage) -> None:
    tries = []

    def work(connection: Connection) -> None:
        tries.append(1)
        connection.execute(text("SELECT * FROM no_such_table"))

    with pytest.raises(StorageError, match="another program created its tables"):
        storage.write(work)
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("error", "is_missed"),
    [
        ("database is locked", True),
        ("no such table: trials", False),
    ],
)
def test_a_storage_knows_when_it_was_last_unreachable(storage: Storage, error: str, is_missed: bool) -> None:
    def work() -> None:
        raise optuna.exceptions.StorageInternalError from sqlite3.OperationalError(error)

    assert storage.steady_seconds() == float("inf")
    hasty = storage.within(0.0)
    with pytest.raises(StorageError):
        hasty.call(work)
    assert (storage.steady_seconds() < 60) == is_missed


def test_a_storage_without_retry_time_tries_once(storage: Storage) -> None:
    tries = []

    def work() -> None:
        tries.append(1)
        raise optuna.exceptions.StorageInternalError from sqlite3.OperationalError("database is locked")

    with pytest.raises(StorageError, match="another process locks it for too long"):
        storage.within(0.0).call(work)
    assert len(tries) == 1


def test_the_names_of_psycopg_that_a_bounded_connection_overrides_exist() -> None:
    assert issubclass(psycopg.errors._WaitTimeout, Exception)
    theirs = inspect.signature(psycopg.Connection.wait).parameters
    ours = inspect.signature(storages.BoundedConnection.wait).parameters
    assert [(each.name, each.default) for each in theirs.values()][:3] == [(each.name, each.default) for each in ours.values()][:3]
    assert "timeout" in theirs
    assert theirs["timeout"].default is None
