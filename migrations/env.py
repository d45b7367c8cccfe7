"""Alembic's environment. `migrations.upgrade` passes the connection; the command `alembic` is not supported."""

from __future__ import annotations

from alembic import context

from models.catalogue.rows import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    compare_type=True,
    transaction_per_migration=True,  # on SQLite, `migrations.upgrade` puts all of them into its own
)
with context.begin_transaction():
    context.run_migrations()
