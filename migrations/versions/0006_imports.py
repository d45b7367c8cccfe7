"""Engines that were imported from other farms"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("action_key", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("envelope", sa.JSON(), nullable=False),
        sa.Column("signer", sa.String(64), nullable=False),
        sa.Column("imported_by", sa.String(64), nullable=True),
        sa.Column("imported_at", TIME, server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["action_key", "attempt"],
            ["attempts.action_key", "attempts.number"],
            name=op.f("fk_imports_action_key_attempt_attempts"),
        ),
        sa.PrimaryKeyConstraint("action_key", "attempt", name=op.f("pk_imports")),
    )


def downgrade() -> None:
    op.drop_table("imports")
