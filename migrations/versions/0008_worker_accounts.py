"""A worker's row names the database account that wrote it

On PostgreSQL the server fills the column, and row-level security compares it: see `migrations.roles`. SQLite has no
accounts, and the column stays empty there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SECURED = (
    "actions", "attempts", "log_chunks", "builds", "blobs", "manifests", "manifest_files", "checkpoints", "engines",
    "warm_files", "workers",
)  # fmt: skip


def upgrade() -> None:
    op.add_column("workers", sa.Column("account", sa.String(64), nullable=True))
    if op.get_context().dialect.name == "postgresql":
        # After the column: the rows that exist were not written by the account that migrates.
        op.alter_column("workers", "account", server_default=sa.text("SESSION_USER"))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        # CASCADE drops the policies that compare the column. Row-level security without them would refuse every
        # worker, and releases before this one grant no roles.
        op.execute("ALTER TABLE workers DROP COLUMN account CASCADE")
        for table in _SECURED:
            op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    else:
        op.drop_column("workers", "account")
