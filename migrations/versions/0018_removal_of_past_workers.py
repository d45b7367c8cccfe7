"""An index for the removal of workers that left long ago"""

from __future__ import annotations

from migrations.online import create_index, drop_index

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A foreign key: without an index, each removed worker is looked for in the whole table.
    create_index("ix_actions_worker_id", "actions", ["worker_id"], where="worker_id IS NOT NULL")


def downgrade() -> None:
    drop_index("ix_actions_worker_id", "actions")
