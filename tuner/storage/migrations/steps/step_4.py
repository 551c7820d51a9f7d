"""Step 4: an epoch holds the metric that its study optimizes, and all other metrics that were reported."""

from sqlalchemy import Column, Double, Text

from tuner.storage import migrating

revision = "4"
down_revision = "3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns, which are empty in the rows of earlier versions."""
    migrating.add_columns("tuner_epochs", Column("value", Double), Column("metrics", Text))
