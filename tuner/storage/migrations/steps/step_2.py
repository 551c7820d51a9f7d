"""Step 2: adds the tables of versions, their stages and the readings of the test split."""

from sqlalchemy import Column, Double, Integer, String, Text
from sqlalchemy.dialects import mysql

from tuner.storage import migrating

revision = "2"
down_revision = "1"
branch_labels = None
depends_on = None

_LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    """Add the tables."""
    migrating.add_table(
        "tuner_versions",
        Column("name", String(200), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("study", String(200), nullable=False),
        Column("origin", String(32), nullable=False),
        Column("trial", Integer),
        Column("config", _LONG_TEXT, nullable=False),
        Column("metrics", _LONG_TEXT, nullable=False),
        Column("fingerprint", String(64), nullable=False),
        Column("splits", String(64), nullable=False),
        Column("artifact", String(1000), nullable=False),
        Column("sha256", String(64), nullable=False),
        Column("created_at", Double, nullable=False),
        Column("created_by", String(200), nullable=False),
        Column("deleted_at", Double),
        Column("deleted_by", String(200)),
    )
    migrating.add_table(
        "tuner_stages",
        Column("id", Integer, primary_key=True),
        Column("name", String(200), nullable=False),
        Column("stage", String(32), nullable=False),
        Column("change", String(16), nullable=False),
        Column("version", Integer),
        Column("at", Double, nullable=False),
        Column("by", String(200), nullable=False),
    )
    migrating.add_table(
        "tuner_test_readings",
        Column("id", Integer, primary_key=True),
        Column("name", String(200), nullable=False),
        Column("version", Integer, nullable=False),
        Column("splits", String(64), nullable=False),
        Column("at", Double, nullable=False),
        Column("by", String(200), nullable=False),
        Column("purpose", String(200), nullable=False),
        Column("accuracy", Double, nullable=False),
        Column("num_images", Integer, nullable=False),
    )
