"""What the registry names an engine by, and the decisions of a dry run of garbage collection

The API fills the new columns in batches once it runs: see models.queries.registry_entries.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COLUMNS = ("repository", "oci_manifest", "oci_config", "registered_at")


def upgrade() -> None:
    # Not in a batch: SQLite would copy the table. Columns that may be NULL are added without it.
    # Registry clients page by the lexical order of bytes, whatever the database's own order is.
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("engines", sa.Column("repository", name, nullable=True))
    op.add_column("engines", sa.Column("oci_manifest", sa.String(71), nullable=True))
    op.add_column("engines", sa.Column("oci_config", sa.String(71), nullable=True))
    op.add_column("engines", sa.Column("registered_at", TIME, nullable=True))
    op.create_table(
        "dry_run_removals",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("run", "key", name=op.f("pk_dry_run_removals")),
    )


def downgrade() -> None:
    op.drop_table("dry_run_removals")
    # Not in a batch: SQLite's copy of the table would lack the indexes of expressions.
    for name in _COLUMNS:
        op.drop_column("engines", name)
