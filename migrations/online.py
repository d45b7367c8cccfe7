"""Steps of migrations that run beside a farm at work, however full its catalogue is. Frozen: never edit, copy instead.

Rules for a migration of tables that existed before:

- A migration is either one short transaction of statements that change no row (a new table, a new column that may be
  NULL, a constraint that is NOT VALID), or steps of this module. Never both: these steps commit.
- A statement that locks a table gives up after seconds (`lock_timeout`), and its migration is repeated from its start.
- Indexes are built and dropped with `create_index` and `drop_index`.
- No migration fills a column. The API fills it in batches, and readers do with rows that are not filled yet, which
  older programs write while the farm is upgraded: see `models.queries.registry_entries`.
- A CHECK or a foreign key comes as NOT VALID and is validated by a later migration. A type of a column never changes.
- No `batch_alter_table` of engines and builds: SQLite's copy of a table lacks its indexes of expressions.

A step may be interrupted at any time: it is repeated by the next upgrade. SQLite has one writer, which these steps keep
waiting for as long as they take.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op


def create_index(name: str, table: str, columns: Sequence[str | sa.TextClause], *, where: str | None = None) -> None:
    """Build an index without a lock that stops writers. It waits for the end of transactions that are open."""
    condition = sa.text(where) if where is not None else None
    if op.get_context().dialect.name == "sqlite":
        op.create_index(name, table, columns, sqlite_where=condition)
        return
    with op.get_context().autocommit_block():
        # Of a build that was interrupted: no statement reads it, and each writes to it.
        invalid = sa.text("SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
        if op.get_bind().execute(invalid, {"name": name}).first() is not None:
            op.drop_index(name, postgresql_concurrently=True, if_exists=True)
        op.create_index(
            name, table, columns, postgresql_where=condition, postgresql_concurrently=True, if_not_exists=True
        )


def drop_index(name: str, table: str) -> None:
    """Drop an index without a lock that stops readers or writers."""
    if op.get_context().dialect.name == "sqlite":
        op.drop_index(name, table)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
