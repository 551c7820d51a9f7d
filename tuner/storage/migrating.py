"""The tuner_ tables of a database into those that this version of tuner knows.

Which steps a database has seen stands in its table tuner_alembic. One that is up to date costs a look; Alembic is loaded only for one that
is not. Steps add; what a running worker of an earlier version knows stays as it was.
"""

import threading
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, MetaData

from tuner.errors import StorageError
from tuner.storage import tables

VERSION_TABLE = "tuner_alembic"
#: the last of the steps in migrations/steps
HEAD = "2"
#: the tables of a database that has seen it
METADATA: MetaData = tables.VERSIONS.metadata
_FOLDER = Path(__file__).parent / "migrations"
#: any number that no other program locks this database with
_LOCK = 7_488_310_725
_LOCK_SECONDS = 60
#: Alembic's `context` and `op` are of the whole process
_ONE_AT_A_TIME = threading.Lock()


def version(connection: Connection) -> str | None:
    """The last step that a database has seen; None if none, or if its tables are from before there were steps."""
    if not sqlalchemy.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sqlalchemy.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def is_up_to_date(connection: Connection) -> bool:
    """Whether a database has seen all steps.

    Raises:
        StorageError: it has seen steps that this version does not know.
    """
    found = version(connection)
    if found is not None and found.isdecimal() and int(found) > int(HEAD):
        raise StorageError(
            f"this storage was last used by a newer tuner: its tables are at step {found}, and this version knows {HEAD}. "
            "Install the newer version here too, or choose another --storage"
        )
    return found == HEAD


def bring_up_to_date(connection: Connection) -> None:
    """Take the steps that a database has not seen, in the transaction of the connection; other processes that want to do so wait.

    MySQL ends a transaction with each change of tables: there, a step that was cut short is taken up where it stopped, by the next call.

    Raises:
        StorageError: it has seen steps that this version does not know.
    """
    _lock(connection)
    try:
        if not is_up_to_date(connection):
            _upgrade(connection)
            _settle(connection)
    finally:
        _unlock(connection)


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
    """Have others wait; SQLite's transactions that write do so by themselves."""
    match connection.dialect.name:
        case "postgresql":
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        case "mysql" | "mariadb":
            connection.execute(sqlalchemy.text("SELECT GET_LOCK(:key, :seconds)"), {"key": VERSION_TABLE, "seconds": _LOCK_SECONDS})
        case _:
            pass


def _settle(connection: Connection) -> None:
    """Commit the number of the last step where the lock does not last until the end of the transaction: others must see it first."""
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.execute(sqlalchemy.text("COMMIT"))


def _unlock(connection: Connection) -> None:
    """Let others go on, where the end of the transaction does not."""
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.execute(sqlalchemy.text("SELECT RELEASE_LOCK(:key)"), {"key": VERSION_TABLE})
