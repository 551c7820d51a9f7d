"""Step 5: adds the tables of the service: the queue, the pool, what owners used of it, and its settings."""

from sqlalchemy import Boolean, Column, Double, Integer, String, Text

from tuner.storage import migrating

revision = "5"
down_revision = "4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    migrating.add_table(
        "tuner_queue",
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(200), nullable=False),
        Column("state", String(16), nullable=False, index=True),
        Column("priority", Integer, nullable=False),
        Column("position", Integer, nullable=False),
        Column("owner", String(200), nullable=False),
        Column("num_wanted", Integer, nullable=False),
        Column("needs", Text, nullable=False),
        Column("after", Text, nullable=False),
        Column("takes_winner", Boolean, nullable=False),
        Column("preempts", Boolean, nullable=False),
        Column("request_key", String(200), unique=True),
        Column("data_path", String(1000), nullable=False),
        Column("likeness", String(64), nullable=False),
        Column("submitted_at", Double, nullable=False),
        Column("started_at", Double),
        Column("ended_at", Double),
        Column("message", String(1000), nullable=False),
    )
    _add_pool()


def _add_pool() -> None:
    migrating.add_table(
        "tuner_pool",
        Column("worker_key", String(32), primary_key=True),
        Column("worker", String(200), nullable=False),
        Column("host", String(200), nullable=False),
        Column("namespace", String(200), nullable=False),
        Column("pid", Integer, nullable=False),
        Column("process_started", Double, nullable=False),
        Column("labels", Text, nullable=False),
        Column("abilities", Text, nullable=False),
        Column("study_id", Integer),
        Column("since", Double, nullable=False),
        Column("num_trials", Integer, nullable=False),
        Column("counted_at", Double, nullable=False),
        Column("started_at", Double, nullable=False),
        Column("seen_at", Double, nullable=False),
        Column("ended_at", Double),
        Column("ending", String(200), nullable=False),
        Column("refusals", Text, nullable=False),
        Column("wish", String(32), nullable=False),
        Column("wished_by", String(200), nullable=False),
    )
    migrating.add_table(
        "tuner_pool_usage",
        Column("owner", String(200), primary_key=True),
        Column("hour", Integer, primary_key=True, autoincrement=False),
        Column("seconds", Double, nullable=False),
        Column("trials", Integer, nullable=False),
    )
    migrating.add_table(
        "tuner_pool_settings",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("settings", Text, nullable=False),
    )
