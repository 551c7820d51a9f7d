"""Adding tables in a migration step. A table may exist already: from before the steps, or from an interrupted step."""

from typing import Any

import sqlalchemy
from alembic import op
from sqlalchemy import Column


def table(name: str, *columns: Column[Any]) -> None:
    """Add a table with its indexes; of an existing table, add only missing indexes."""
    made = sqlalchemy.Table(name, sqlalchemy.MetaData(), *columns)
    connection = op.get_bind()
    made.create(connection, checkfirst=True)
    for index in made.indexes:
        index.create(connection, checkfirst=True)
