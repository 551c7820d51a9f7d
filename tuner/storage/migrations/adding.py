"""The columns of a step into a table, unless it is there already: made before there were steps, or by a step that was cut short."""

from typing import Any

import sqlalchemy
from alembic import op
from sqlalchemy import Column


def table(name: str, *columns: Column[Any]) -> None:
    """Add a table with its indexes; one that is there is left as it is, but for indexes that it lacks."""
    made = sqlalchemy.Table(name, sqlalchemy.MetaData(), *columns)
    connection = op.get_bind()
    made.create(connection, checkfirst=True)
    for index in made.indexes:
        index.create(connection, checkfirst=True)
