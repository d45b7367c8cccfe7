"""The catalogue's first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.frozen import TIME, now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("name", name=op.f("uq_api_keys_name")),
    )
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("verified_at", TIME, server_default=now(), nullable=False),
        sa.CheckConstraint("size >= 0", name=op.f("ck_blobs_size_not_negative")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )
    op.create_table(
        "builds",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("disposition", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("toolchain", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False),
        sa.Column("platform_label", sa.String(length=128), nullable=False),
        sa.Column("requested_by", sa.String(length=64), nullable=True),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name=op.f("ck_builds_failed_with_a_reason")),
        sa.CheckConstraint("(state = 'open') = (ended_at IS NULL)", name=op.f("ck_builds_open_until_ended")),
        sa.CheckConstraint("disposition <> 'cached' OR state = 'succeeded'", name=op.f("ck_builds_cached_is_done")),
        sa.CheckConstraint("disposition IN ('cached', 'joined', 'created')", name=op.f("ck_builds_disposition_known")),
        sa.CheckConstraint("state IN ('open', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_builds_state_known")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_builds")),
        sa.UniqueConstraint("id", name=op.f("uq_builds_id")),
    )
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_builds_key"), ["key"], unique=False)
        batch_op.create_index(
            "ix_builds_open",
            ["key"],
            unique=False,
            postgresql_where=sa.text("state = 'open'"),
            sqlite_where=sa.text("state = 'open'"),
        )

    op.create_table(
        "file_digests",
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("stamp", sa.String(length=128), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("path", name=op.f("pk_file_digests")),
    )
    op.create_table(
        "manifests",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_manifests")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False),
        sa.Column("host", sa.JSON(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("queues", sa.JSON(), nullable=False),
        sa.Column("started_at", TIME, server_default=now(), nullable=False),
        sa.Column("last_seen_at", TIME, server_default=now(), nullable=False),
        sa.CheckConstraint("state IN ('live', 'draining', 'gone')", name=op.f("ck_workers_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_workers_last_seen_at"), ["last_seen_at"], unique=False)

    op.create_table(
        "actions",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("queue", sa.String(length=200), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("job", sa.JSON(), nullable=False),
        sa.Column("depends_on", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("queued_at", TIME, server_default=now(), nullable=False),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("announced_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name=op.f("ck_actions_failed_with_a_reason")),
        sa.CheckConstraint(
            "(state = 'running') = (lease_expires_at IS NOT NULL)", name=op.f("ck_actions_leased_while_running")
        ),
        sa.CheckConstraint(
            "(state = 'running') = (worker_id IS NOT NULL)", name=op.f("ck_actions_owned_while_running")
        ),
        sa.CheckConstraint("stage IN ('convert', 'build')", name=op.f("ck_actions_stage_known")),
        sa.CheckConstraint("state <> 'waiting' OR depends_on IS NOT NULL", name=op.f("ck_actions_waits_for_something")),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_actions_state_known"),
        ),
        sa.CheckConstraint("attempt >= tries AND tries >= 0", name=op.f("ck_actions_attempts_counted")),
        sa.CheckConstraint("length(key) = 64", name=op.f("ck_actions_key_is_sha256")),
        sa.CheckConstraint("progress BETWEEN 0 AND 1", name=op.f("ck_actions_progress_is_a_fraction")),
        sa.ForeignKeyConstraint(["depends_on"], ["actions.key"], name=op.f("fk_actions_depends_on_actions")),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_actions_worker_id_workers")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_actions")),
    )
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_actions_depends_on"), ["depends_on"], unique=False)
        batch_op.create_index(
            "ix_actions_lease",
            ["lease_expires_at"],
            unique=False,
            postgresql_where=sa.text("state = 'running'"),
            sqlite_where=sa.text("state = 'running'"),
        )
        batch_op.create_index(
            "ix_actions_queue_queued",
            ["queue", "queued_at"],
            unique=False,
            postgresql_where=sa.text("state = 'queued'"),
            sqlite_where=sa.text("state = 'queued'"),
        )

    op.create_table(
        "manifest_files",
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("blob", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["blob"], ["blobs.digest"], name=op.f("fk_manifest_files_blob_blobs")),
        sa.ForeignKeyConstraint(["manifest"], ["manifests.digest"], name=op.f("fk_manifest_files_manifest_manifests")),
        sa.PrimaryKeyConstraint("manifest", "path", name=op.f("pk_manifest_files")),
    )
    with op.batch_alter_table("manifest_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_manifest_files_blob"), ["blob"], unique=False)

    op.create_table(
        "attempts",
        sa.Column("action_key", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=32), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("started_at", TIME, server_default=now(), nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("failure", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.Column("log_digest", sa.String(length=71), nullable=True),
        sa.Column("log_size", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(outcome = 'running') = (ended_at IS NULL)", name=op.f("ck_attempts_ended_when_it_has_an_outcome")
        ),
        sa.CheckConstraint(
            "outcome IN ('running', 'succeeded', 'failed', 'lost', 'cancelled', 'handed_back')",
            name=op.f("ck_attempts_outcome_known"),
        ),
        sa.ForeignKeyConstraint(["action_key"], ["actions.key"], name=op.f("fk_attempts_action_key_actions")),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_attempts_worker_id_workers")),
        sa.PrimaryKeyConstraint("action_key", "number", name=op.f("pk_attempts")),
    )
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(
            "uq_attempts_one_running",
            ["action_key"],
            unique=True,
            postgresql_where=sa.text("outcome = 'running'"),
            sqlite_where=sa.text("outcome = 'running'"),
        )

    op.create_table(
        "checkpoints",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["actions.key"], name=op.f("fk_checkpoints_key_actions")),
        sa.ForeignKeyConstraint(["manifest"], ["manifests.digest"], name=op.f("fk_checkpoints_manifest_manifests")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "engines",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("toolchain", sa.String(length=32), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False),
        sa.Column("bound_to", sa.JSON(), nullable=False),
        sa.Column("driver_binding", sa.String(length=16), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["actions.key"], name=op.f("fk_engines_key_actions")),
        sa.ForeignKeyConstraint(["manifest"], ["manifests.digest"], name=op.f("fk_engines_manifest_manifests")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_engines")),
    )
    with op.batch_alter_table("engines", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_engines_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_engines_model"), ["model"], unique=False)

    op.create_table(
        "log_chunks",
        sa.Column("action_key", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["action_key", "attempt"],
            ["attempts.action_key", "attempts.number"],
            name=op.f("fk_log_chunks_action_key_attempt_attempts"),
        ),
        sa.PrimaryKeyConstraint("action_key", "attempt", "start", name=op.f("pk_log_chunks")),
    )


def downgrade() -> None:
    op.drop_table("log_chunks")
    with op.batch_alter_table("engines", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_engines_model"))
        batch_op.drop_index(batch_op.f("ix_engines_created_at"))

    op.drop_table("engines")
    op.drop_table("checkpoints")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_attempts_one_running",
            postgresql_where=sa.text("outcome = 'running'"),
            sqlite_where=sa.text("outcome = 'running'"),
        )

    op.drop_table("attempts")
    with op.batch_alter_table("manifest_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_manifest_files_blob"))

    op.drop_table("manifest_files")
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_actions_queue_queued",
            postgresql_where=sa.text("state = 'queued'"),
            sqlite_where=sa.text("state = 'queued'"),
        )
        batch_op.drop_index(
            "ix_actions_lease", postgresql_where=sa.text("state = 'running'"), sqlite_where=sa.text("state = 'running'")
        )
        batch_op.drop_index(batch_op.f("ix_actions_depends_on"))

    op.drop_table("actions")
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_workers_last_seen_at"))

    op.drop_table("workers")
    op.drop_table("manifests")
    op.drop_table("file_digests")
    with op.batch_alter_table("builds", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_builds_open", postgresql_where=sa.text("state = 'open'"), sqlite_where=sa.text("state = 'open'")
        )
        batch_op.drop_index(batch_op.f("ix_builds_key"))

    op.drop_table("builds")
    op.drop_table("blobs")
    op.drop_table("api_keys")
