"""Step 1: adds the tables of leases, epochs, workers and the audit; existing tables stay unchanged."""

from sqlalchemy import BigInteger, Column, Double, Integer, String

from tuner.storage import migrating

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    _add_attempts()
    _add_audit()
    _add_workers()


def _add_attempts() -> None:
    migrating.add_table(
        "tuner_leases",
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("trial_number", Integer, primary_key=True, autoincrement=False),
        Column("attempt", Integer, primary_key=True, autoincrement=False),
        Column("trial_id", Integer, nullable=False),
        Column("worker_key", String(32), nullable=False),
        Column("worker", String(200), nullable=False),
        Column("namespace", String(200), nullable=False),
        Column("pid", Integer, nullable=False),
        Column("process_started", Double, nullable=False),
        Column("started_at", Double, nullable=False),
        Column("seen_at", Double, nullable=False),
        Column("ended_at", Double),
        Column("ending", String(32), nullable=False),
        Column("error", String(200), nullable=False),
    )
    migrating.add_table(
        "tuner_epochs",
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("trial_number", Integer, primary_key=True, autoincrement=False),
        Column("step", Integer, primary_key=True, autoincrement=False),
        Column("stage", String(32), nullable=False),
        Column("loss", Double),
        Column("accuracy", Double),
        Column("validation_loss", Double),
        Column("validation_accuracy", Double),
        Column("learning_rate", Double),
        Column("seconds", Double),
    )


def _add_audit() -> None:
    migrating.add_table(
        "tuner_audit",
        Column("id", Integer, primary_key=True),
        Column("at", Double, nullable=False, index=True),
        Column("who", String(200), nullable=False),
        Column("role", String(16), nullable=False),
        Column("method", String(16), nullable=False),
        Column("path", String(500), nullable=False),
        Column("status", Integer, nullable=False),
        Column("study", String(512), nullable=False),
        Column("address", String(64), nullable=False),
    )


def _add_workers() -> None:
    migrating.add_table(
        "tuner_workers",
        Column("study_id", Integer, primary_key=True, autoincrement=False),
        Column("worker_key", String(32), primary_key=True),
        Column("worker", String(200), nullable=False),
        Column("host", String(200), nullable=False),
        Column("namespace", String(200), nullable=False),
        Column("pid", Integer, nullable=False),
        Column("process_started", Double, nullable=False),
        Column("device", String(200), nullable=False),
        Column("threads", Integer),
        Column("versions", String(500), nullable=False),
        Column("started_at", Double, nullable=False),
        Column("seen_at", Double, nullable=False),
        Column("ended_at", Double),
        Column("ending", String(200), nullable=False),
        Column("memory_bytes", BigInteger),
        Column("trainer_memory_bytes", BigInteger),
        Column("trial_number", Integer),
        Column("stage", String(32), nullable=False),
        Column("wish", String(32), nullable=False),
        Column("wished_by", String(200), nullable=False),
    )
