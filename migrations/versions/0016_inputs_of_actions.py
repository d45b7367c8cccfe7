"""What an action's worker fetches first, how often the action was overtaken, and who fetches its inputs ahead

Actions that were queued before have no inputs here: no worker prefers them, and they are claimed by their age.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_COLUMNS = ("inputs", "overtaken", "overtaken_at", "prefetched_by", "prefetched_until")


def upgrade() -> None:
    # Not in a batch: SQLite would copy the table. Columns that may be NULL are added without it.
    op.add_column("actions", sa.Column("inputs", sa.String(64), nullable=True))
    op.add_column("actions", sa.Column("overtaken", sa.Integer(), nullable=True))
    op.add_column("actions", sa.Column("overtaken_at", TIME, nullable=True))
    op.add_column("actions", sa.Column("prefetched_by", sa.String(32), nullable=True))
    op.add_column("actions", sa.Column("prefetched_until", TIME, nullable=True))


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_column("actions", name)
