"""What is to be removed, when an engine was last pulled, and what was removed"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DOOMED = ("engines", "checkpoints", "blobs")


def upgrade() -> None:
    for table in _DOOMED:
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("doomed_at", TIME, nullable=True))
    with op.batch_alter_table("engines") as batch:
        batch.add_column(sa.Column("pulled_at", TIME, nullable=True))
    op.create_index(op.f("ix_attempts_log_digest"), "attempts", ["log_digest"])
    op.create_table(
        "removals",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("manifest", sa.String(71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("removed_by", sa.String(64), nullable=True),
        sa.Column("removed_at", TIME, server_default=now(), nullable=False),
        sa.CheckConstraint("kind IN ('engine', 'checkpoint')", name=op.f("ck_removals_kind_known")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_removals")),
    )
    op.create_index(op.f("ix_removals_key"), "removals", ["key"])


def downgrade() -> None:
    op.drop_table("removals")
    op.drop_index(op.f("ix_attempts_log_digest"), "attempts")
    with op.batch_alter_table("engines") as batch:
        batch.drop_column("pulled_at")
    for table in _DOOMED:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("doomed_at")
