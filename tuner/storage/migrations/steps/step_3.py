"""Step 3: on MySQL and MariaDB, lets the attributes of studies and trials hold 16 MiB; Optuna's TEXT ends at 64 KiB.

The names of 10,000 classes are longer than that.
"""

from alembic import op
from sqlalchemy.dialects import mysql

from tuner.storage import tables

revision = "3"
down_revision = "2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the columns wider."""
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        for table in (tables.STUDY_USER, tables.STUDY_SYSTEM, tables.TRIAL_USER, tables.TRIAL_SYSTEM):
            op.alter_column(table.name, "value_json", type_=mysql.MEDIUMTEXT(), existing_nullable=True)
