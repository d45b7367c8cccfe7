"""Indexes of garbage collection, of the registry and of past builds"""

from __future__ import annotations

from migrations.online import create_index, drop_index

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_INDEXES = [
    # Foreign keys: without an index, each removed manifest is looked for in the whole table.
    ("ix_engines_manifest", "engines", ["manifest"], None),
    ("ix_checkpoints_manifest", "checkpoints", ["manifest"], None),
    ("ix_engines_created_at_key", "engines", ["created_at", "key"], None),
    ("ix_engines_repository_key", "engines", ["repository", "key"], "quarantined_at IS NULL"),
    ("ix_engines_oci_manifest", "engines", ["oci_manifest"], None),
    ("ix_engines_oci_config", "engines", ["oci_config"], None),
    ("ix_engines_unregistered", "engines", ["key"], "registered_at IS NULL OR registered_at <> created_at"),
    ("ix_blobs_marked", "blobs", ["digest"], "doomed_at IS NOT NULL"),
    ("ix_builds_key_seq", "builds", ["key", "seq"], None),
]


def upgrade() -> None:
    for name, table, columns, where in _INDEXES:
        create_index(name, table, columns, where=where)
    drop_index("ix_builds_key", "builds")
    drop_index("ix_engines_created_at", "engines")


def downgrade() -> None:
    create_index("ix_engines_created_at", "engines", ["created_at"])
    create_index("ix_builds_key", "builds", ["key"])
    for name, table, _columns, _where in reversed(_INDEXES):
        drop_index(name, table)
