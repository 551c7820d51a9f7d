"""The SQL for each kind of database, without a server."""

import re
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from tuner.storage import tables


class Speaking:
    """A stand-in for a connection that knows only its dialect."""

    def __init__(self, dialect: Any) -> None:
        self.dialect = dialect


@pytest.mark.parametrize("database", [sqlite, postgresql, mysql], ids=lambda database: str(database.__name__))
def test_every_dialect_specific_statement_compiles_for_each_database(database: Any) -> None:
    dialect = database.dialect()
    connection = cast("Connection", Speaking(dialect))
    upsert = tables._upsert(connection, tables.STUDY_USER, ["study_id", "key"], "value_json")
    written = [str(statement.compile(dialect=dialect)) for statement in (select(tables.now(connection)), upsert)]
    assert "ON DUPLICATE KEY UPDATE" in written[1] or "DO UPDATE SET value_json" in written[1]


@pytest.mark.parametrize(
    "table",
    [tables.LEASES, tables.EPOCHS, tables.AUDIT, tables.WORKERS, tables.QUEUE, tables.POOL],
    ids=lambda table: str(table.name),
)
@pytest.mark.parametrize("database", [sqlite, postgresql, mysql], ids=lambda database: str(database.__name__))
def test_every_table_of_tuner_compiles_for_each_database_with_times_in_microseconds(table: Table, database: Any) -> None:
    written = str(CreateTable(table).compile(dialect=database.dialect())).lower()
    moments = [column.name for column in table.columns if column.name == "at" or column.name.endswith("_at")]
    assert [name for name in moments if not re.search(rf"\b{name} double\b", written)] == []
