"""Locks of GPUs: two workers that see one GPU never run stages on it at the same time

A program older than this migration takes no lock and sees none.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gpu_locks",
        sa.Column("gpu", sa.String(128), nullable=False),
        sa.Column("worker_id", sa.String(32), nullable=False),
        sa.Column("action_key", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("locked_at", TIME, server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["action_key", "attempt"],
            ["attempts.action_key", "attempts.number"],
            name=op.f("fk_gpu_locks_action_key_attempts"),
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_gpu_locks_worker_id_workers")),
        sa.PrimaryKeyConstraint("gpu", name=op.f("pk_gpu_locks")),
    )


def downgrade() -> None:
    op.drop_table("gpu_locks")
