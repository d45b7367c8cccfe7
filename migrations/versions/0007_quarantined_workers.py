"""Quarantined workers have a state of their own

A program older than this migration refuses new work only while its worker's row is `draining`. It leaves
`catalogue_revision` empty, so that a quarantine of its worker is still stored as `draining`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATES = "state IN ('live', 'draining', 'gone')"
_STATES_WITH_QUARANTINED = "state IN ('live', 'draining', 'quarantined', 'gone')"


def upgrade() -> None:
    with op.batch_alter_table("workers", copy_from=_workers(_STATES)) as batch:
        batch.add_column(sa.Column("catalogue_revision", sa.String(32), nullable=True))
        batch.drop_constraint(op.f("ck_workers_state_known"), type_="check")
        batch.create_check_constraint(op.f("ck_workers_state_known"), _STATES_WITH_QUARANTINED)
        batch.create_check_constraint(
            op.f("ck_workers_quarantined_at_a_time"), "state <> 'quarantined' OR quarantined_at IS NOT NULL"
        )
    # Rows that are `draining` with `quarantined_at` stay: their programs are older than this migration, and such a
    # program would take work in the state `quarantined`. The row changes when a newer program reports.


def downgrade() -> None:
    op.execute("UPDATE workers SET state = 'draining' WHERE state = 'quarantined'")
    upgraded = _workers(_STATES_WITH_QUARANTINED)
    upgraded.append_column(sa.Column("catalogue_revision", sa.String(32), nullable=True))
    upgraded.append_constraint(
        sa.CheckConstraint(
            "state <> 'quarantined' OR quarantined_at IS NOT NULL", name=op.f("ck_workers_quarantined_at_a_time")
        )
    )
    with op.batch_alter_table("workers", copy_from=upgraded) as batch:
        batch.drop_constraint(op.f("ck_workers_quarantined_at_a_time"), type_="check")
        batch.drop_constraint(op.f("ck_workers_state_known"), type_="check")
        batch.create_check_constraint(op.f("ck_workers_state_known"), _STATES)
        batch.drop_column("catalogue_revision")


def _workers(states: str) -> sa.Table:
    """The table at 0006. SQLite cannot alter a CHECK: Alembic copies the table, and reflection would lose CHECKs."""
    return sa.Table(
        "workers",
        sa.MetaData(),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False),
        sa.Column("host", sa.JSON(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("started_at", TIME, server_default=now(), nullable=False),
        sa.Column("last_seen_at", TIME, server_default=now(), nullable=False),
        sa.Column("draining_at", TIME, nullable=True),
        sa.Column("quarantined_at", TIME, nullable=True),
        sa.Column("released_at", TIME, nullable=True),
        sa.Column("quarantine_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(states, name=op.f("ck_workers_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        sa.Index(op.f("ix_workers_last_seen_at"), "last_seen_at"),
    )
