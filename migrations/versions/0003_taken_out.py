"""Withdrawn engines and checkpoints, damaged blobs, drained and quarantined workers, tries reserved for others"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("engines", "checkpoints"):
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("quarantined_at", TIME, nullable=True))
            batch.add_column(sa.Column("quarantine_reason", sa.Text(), nullable=True))
    with op.batch_alter_table("blobs") as batch:
        batch.add_column(sa.Column("damaged_at", TIME, nullable=True))
    with op.batch_alter_table("actions") as batch:
        batch.add_column(sa.Column("avoid_worker", sa.String(length=32), nullable=True))
        batch.add_column(sa.Column("avoid_until", TIME, nullable=True))
    with op.batch_alter_table("workers") as batch:
        for name in ("draining_at", "quarantined_at", "released_at"):
            batch.add_column(sa.Column(name, TIME, nullable=True))
        batch.add_column(sa.Column("quarantine_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("workers") as batch:
        for name in ("draining_at", "quarantined_at", "released_at", "quarantine_reason"):
            batch.drop_column(name)
    for table, names in {
        "actions": ("avoid_worker", "avoid_until"),
        "blobs": ("damaged_at",),
        "checkpoints": ("quarantined_at", "quarantine_reason"),
        "engines": ("quarantined_at", "quarantine_reason"),
    }.items():
        with op.batch_alter_table(table) as batch:
            for name in names:
                batch.drop_column(name)
