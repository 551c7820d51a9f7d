"""What is sent to each kind of database, the ones without a server in these tests too."""

from typing import Any, cast

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from tuner.search import leases, tables


class Speaking:
    """As much of a connection as says which SQL to write."""

    def __init__(self, dialect: Any) -> None:
        self.dialect = dialect


@pytest.mark.parametrize("database", [sqlite, postgresql, mysql], ids=lambda database: str(database.__name__))
def test_every_statement_that_differs_can_be_written_for_each_database(database: Any) -> None:
    dialect = database.dialect()
    connection = cast("Connection", Speaking(dialect))
    upsert = tables._upsert(connection, tables.STUDY_USER, ["study_id", "key"], "value_json")
    statements = [select(leases.now(connection)), upsert, CreateTable(tables.LEASES), CreateTable(tables.EPOCHS)]
    written = [str(statement.compile(dialect=dialect)) for statement in statements]
    assert "ON DUPLICATE KEY UPDATE" in written[1] or "DO UPDATE SET value_json" in written[1]
    assert "double" in written[2].lower()
