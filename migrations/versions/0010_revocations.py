"""Recalled engines for the signed list of revocations, the farm's own id, and verification summaries of imports

A recall of before this migration left its mark in the engine's row only. Its reason tells it from a deletion and from
damage in the store: nodes may go on using a good copy of those.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "farm",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.CheckConstraint("number = 1", name=op.f("ck_farm_one_row")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_farm")),
    )
    op.create_table(
        "revocations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("manifest", sa.String(71), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("revoked_at", TIME, server_default=now(), nullable=False),
        sa.Column("lifted_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_revocations")),
    )
    op.create_index(op.f("ix_revocations_key"), "revocations", ["key"])
    with op.batch_alter_table("imports") as batch:
        batch.add_column(sa.Column("summary", sa.JSON(), nullable=True))
    op.execute(
        "INSERT INTO revocations (key, manifest, reason, revoked_at) "
        "SELECT key, manifest, quarantine_reason, quarantined_at FROM engines WHERE quarantined_at IS NOT NULL "
        "AND quarantine_reason IS NOT NULL AND quarantine_reason <> 'its bytes in the store are damaged' "
        "AND quarantine_reason NOT LIKE 'deleted by %' AND quarantine_reason <> 'deleted' ORDER BY quarantined_at, key"
    )


def downgrade() -> None:
    with op.batch_alter_table("imports") as batch:
        batch.drop_column("summary")
    op.drop_index(op.f("ix_revocations_key"), table_name="revocations")
    op.drop_table("revocations")
    op.drop_table("farm")
