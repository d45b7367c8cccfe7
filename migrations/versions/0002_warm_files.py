"""Warm files make a later run of a stage faster"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "warm_files",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("blob", sa.String(71), nullable=False),
        sa.Column("updated_at", TIME, server_default=now(), nullable=False),
        sa.CheckConstraint("length(key) = 64", name=op.f("ck_warm_files_key_is_sha256")),
        sa.ForeignKeyConstraint(["blob"], ["blobs.digest"], name=op.f("fk_warm_files_blob_blobs")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_warm_files")),
    )
    op.create_index(op.f("ix_warm_files_blob"), "warm_files", ["blob"])
    op.add_column("attempts", sa.Column("warmth", sa.JSON(), nullable=True))
