"""The index by which a claim finds the oldest action whose inputs a worker's node holds"""

from __future__ import annotations

from migrations.online import create_index, drop_index

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_actions_warm", "actions", ["queue", "inputs", "queued_at"], where="state = 'queued'")


def downgrade() -> None:
    drop_index("ix_actions_warm", "actions")
