"""The tables of versions: what was kept of studies, which of it is in production, and who read the test split.

Versions and events are written once. A version that is deleted stays as a row, so that its number is never given again.
"""

from sqlalchemy import Column, Double, Integer, String, Table, Text
from sqlalchemy.dialects import mysql

from tuner.search import tables

#: MySQL's own TEXT ends at 64 KiB
_LONG_TEXT = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")

#: one row a version of a name
VERSIONS = Table(
    "tuner_versions",
    tables.METADATA,
    Column("name", String(200), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    #: names, not ids: a version outlives its study
    Column("study", String(200), nullable=False),
    Column("origin", String(32), nullable=False),
    #: whose hyperparameters it was trained with
    Column("trial", Integer),
    #: the study file of fixed values, as JSON
    Column("config", _LONG_TEXT, nullable=False),
    #: as JSON
    Column("metrics", _LONG_TEXT, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("splits", String(64), nullable=False),
    #: path or URL of the weights
    Column("artifact", String(1000), nullable=False),
    #: SHA-256 of the weights
    Column("sha256", String(64), nullable=False),
    #: seconds since the epoch by the database's clock, as all that follow
    Column("created_at", Double, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("deleted_at", Double),
    Column("deleted_by", String(200)),
)
#: one row a change of what is in a stage; the last one of a stage tells what is in it now
STAGES = Table(
    "tuner_stages",
    tables.METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("stage", String(32), nullable=False),
    #: "promoted", "rolled back" or "withdrawn"
    Column("change", String(16), nullable=False),
    #: what is in the stage from then on; none if it is empty
    Column("version", Integer),
    Column("at", Double, nullable=False),
    Column("by", String(200), nullable=False),
)
#: one row a time that the test split was looked at for a version
READINGS = Table(
    "tuner_test_readings",
    tables.METADATA,
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
