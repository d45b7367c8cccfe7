"""Alembic's entry. The connection is given by `migrations.upgrade`; there is no other way in."""

from __future__ import annotations

from alembic import context

from models.catalogue.rows import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
