"""Migration: brings the tuner_ tables of a database up to this version of tuner.

The table tuner_alembic holds the last step that was applied. Alembic is loaded only if a step is missing. Steps only add tables and
columns, or make columns wider, so running workers of an earlier version continue to work.
"""

import threading
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Column, Connection, MetaData

from tuner.errors import StorageError
from tuner.storage import tables

VERSION_TABLE = "tuner_alembic"
#: the last of the steps in migrations/steps
HEAD = "5"
#: the tables of a database after that step
METADATA: MetaData = tables.VERSIONS.metadata
_FOLDER = Path(__file__).parent / "migrations"
#: an arbitrary number that no other program uses for a lock in this database
_LOCK = 7_488_310_725
_LOCK_SECONDS = 60
#: Alembic's `context` and `op` are shared by all threads of a process
_ONE_AT_A_TIME = threading.Lock()


def version(connection: Connection) -> str | None:
    """Return the last step applied to a database, or None if there was none (also for tables that are older than the steps)."""
    if not sqlalchemy.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sqlalchemy.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def is_up_to_date(connection: Connection) -> bool:
    """Return whether all steps have been applied to a database.

    Raises:
        StorageError: a newer version of tuner has applied steps that this version does not know.
    """
    found = version(connection)
    if found is not None and found.isdecimal() and int(found) > int(HEAD):
        raise StorageError(
            f"this storage was last used by a newer tuner: its tables are at step {found}, and this version supports up to step {HEAD}. "
            "Install the newer version on this machine, or choose another --storage"
        )
    return found == HEAD


def bring_up_to_date(connection: Connection) -> None:
    """Apply the missing steps in the transaction of the connection; other processes wait for the lock.

    MySQL ends a transaction with each change of tables: there, a step that was cut short is taken up where it stopped, by the next call.

    Raises:
        StorageError: a newer version of tuner has applied steps that this version does not know.
    """
    _lock(connection)
    try:
        if not is_up_to_date(connection):
            _upgrade(connection)
            _settle(connection)
    finally:
        _unlock(connection)


def add_table(name: str, *columns: Column[Any]) -> None:
    """Add a table with its indexes in a step. Of an existing table, which may come from an interrupted step, add only missing indexes."""
    from alembic import op

    created = sqlalchemy.Table(name, MetaData(), *columns)
    connection = op.get_bind()
    created.create(connection, checkfirst=True)
    for index in created.indexes:
        index.create(connection, checkfirst=True)


def add_columns(name: str, *columns: Column[Any]) -> None:
    """Add columns to a table in a step, those that an interrupted step has not added."""
    from alembic import op

    known = {column["name"] for column in sqlalchemy.inspect(op.get_bind()).get_columns(name)}
    for column in columns:
        if column.name not in known:
            op.add_column(name, column)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    # a % in a path would be taken for the beginning of a variable
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("version_locations", str(_FOLDER / "steps").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")


def _lock(connection: Connection) -> None:
    """Take the lock of the migration; on SQLite, writing transactions exclude each other anyway."""
    match connection.dialect.name:
        case "postgresql":
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        case "mysql" | "mariadb":
            connection.execute(sqlalchemy.text("SELECT GET_LOCK(:key, :seconds)"), {"key": VERSION_TABLE, "seconds": _LOCK_SECONDS})
        case _:
            pass


def _settle(connection: Connection) -> None:
    """Commit the number of the last step on MySQL: other processes must see it before the lock is released."""
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.execute(sqlalchemy.text("COMMIT"))


def _unlock(connection: Connection) -> None:
    """Release the lock on MySQL, where the end of the transaction does not."""
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.execute(sqlalchemy.text("SELECT RELEASE_LOCK(:key)"), {"key": VERSION_TABLE})
