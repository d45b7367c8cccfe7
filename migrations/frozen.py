"""The column type and the default of times, as migrations write them. Frozen: never edit, copy instead.

Migrations import nothing of the living code: a later change of the catalogue must not change what an old migration
does to an old database.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

TIME = sa.DateTime(timezone=True)


def now() -> sa.TextClause:
    """The database's clock, as the default of a column."""
    if op.get_context().dialect.name == "postgresql":
        return sa.text("clock_timestamp()")  # moves on within a transaction, unlike now()
    # Six decimals, because SQLAlchemy writes a datetime so and SQLite compares times as text.
    return sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now') || '000')")
