"""Indexes of listings, estimates, workers and the sweep

Keys of an index that end with the order of a listing answer a page without a sort, however many rows the filter has.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from migrations.online import create_index, drop_index

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INDEXES = [
    ("ix_actions_due", "actions", ["queue", "queued_at", "not_before"], "state = 'queued'"),
    ("ix_actions_running", "actions", ["worker_id"], "state = 'running'"),
    ("ix_actions_waiting", "actions", ["depends_on", "key"], "state = 'waiting'"),
    ("ix_actions_succeeded", "actions", ["queue", "queued_at"], "state = 'succeeded'"),
    ("ix_actions_succeeded_from", "actions", ["depends_on", "queue", "queued_at"], "state = 'succeeded'"),
    ("ix_attempts_worker_id_ended_at", "attempts", ["worker_id", "ended_at"], None),
    ("ix_builds_state_seq", "builds", ["state", "seq"], None),
    ("ix_builds_toolchain_seq", "builds", ["toolchain", "seq"], None),
    ("ix_builds_platform_label_seq", "builds", ["platform_label", "seq"], None),
    ("ix_builds_requested_by_seq", "builds", ["requested_by", "seq"], None),
    ("ix_builds_model_seq", "builds", ["model", "seq"], None),
    ("ix_engines_served", "engines", ["created_at", "key"], "quarantined_at IS NULL"),
    ("ix_engines_served_model", "engines", ["model", "created_at", "key"], "quarantined_at IS NULL"),
    ("ix_workers_name", "workers", ["name"], None),
    ("ix_workers_present", "workers", ["name"], "state <> 'gone'"),
    ("ix_workers_quarantined", "workers", ["name"], "quarantined_at IS NOT NULL"),
]
# Replaced by one of those above.
_REPLACED = [
    ("ix_actions_lease", "actions", ["lease_expires_at"], "state = 'running'"),
    ("ix_actions_queue_queued", "actions", ["queue", "queued_at"], "state = 'queued'"),
    ("ix_engines_model", "engines", ["model"], None),
    ("ix_workers_last_seen_at", "workers", ["last_seen_at"], None),
]


def upgrade() -> None:
    for name, table, columns, where in _INDEXES:
        create_index(name, table, columns, where=where)
    on_postgresql = op.get_context().dialect.name == "postgresql"
    any_revision = "substr(model, 1, instr(model || '@', '@') - 1)"
    gpu = "json_extract(platform, '$.gpu')"
    if on_postgresql:
        any_revision = "split_part(model, '@', 1)"
        gpu = "(platform ->> 'gpu')"
    create_index("ix_builds_any_revision_seq", "builds", [text(any_revision), "seq"])
    create_index("ix_builds_gpu_seq", "builds", [text(gpu), "seq"])
    create_index("ix_engines_served_any_revision", "engines", [text(any_revision), "created_at", "key"],
                 where="quarantined_at IS NULL")  # fmt: skip
    for name, table, _columns, _where in _REPLACED:
        drop_index(name, table)


def downgrade() -> None:
    for name, table, columns, where in _REPLACED:
        create_index(name, table, columns, where=where)
    drop_index("ix_builds_any_revision_seq", "builds")
    drop_index("ix_builds_gpu_seq", "builds")
    drop_index("ix_engines_served_any_revision", "engines")
    for name, table, _columns, _where in reversed(_INDEXES):
        drop_index(name, table)
