"""Alembic's environment: runs the steps on the caller's connection, inside its transaction."""

from alembic import context

from tuner.storage import migrating

context.configure(connection=context.config.attributes["connection"], version_table=migrating.VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
