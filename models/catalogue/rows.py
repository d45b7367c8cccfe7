"""The catalogue's tables. Each table says what may be half-done; CHECKs refuse what must never be.

A row of `checkpoints` or `engines` is written by the transaction that ends the action that made it, after its bytes
were uploaded and verified: no name exists without bytes. A blob that a fenced attempt uploaded has no row. Such a
blob is harmless, because no row refers to it, and the blob garbage collection deletes it.

A column whose name older programs share keeps that name; its attribute may have a better one.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    FetchedValue,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from models.catalogue.clock import UtcDateTime, now
from models.catalogue.expressions import gpu_of, text_before_at
from models.catalogue.states import ActionState, BuildRowState, Outcome, WorkerState

REVISION = "0018"  # of the migration that leads to these tables

_Sequence = BigInteger().with_variant(Integer(), "sqlite")  # SQLite generates values only for INTEGER PRIMARY KEY
_Json = dict[str, Any]


def _one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _partial(name: str, *columns: Any, where: str) -> Index:
    """An index of the rows that meet a condition."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


class Row(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime(), _Json: JSON(), bytes: LargeBinary()}  # noqa: RUF012  # SQLAlchemy's


class ActionRow(Row):
    """One keyed stage to run: the unit of de-duplication, leasing, retry and logging.

    `attempt` is the fencing token: every claim increments it and nothing ever decrements it.
    """

    __tablename__ = "actions"
    __table_args__ = (
        _one_of("state", ActionState),
        CheckConstraint("stage IN ('convert', 'build')", name="stage_known"),
        CheckConstraint("length(key) = 64", name="key_is_sha256"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", name="leased_while_running"),
        CheckConstraint("(state = 'running') = (worker_id IS NOT NULL)", name="owned_while_running"),
        CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failed_with_a_reason"),
        CheckConstraint("state <> 'waiting' OR depends_on IS NOT NULL", name="waits_for_something"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress_is_a_fraction"),
        CheckConstraint("attempt >= tries AND tries >= 0", name="attempts_counted"),
        # With `not_before`, so that the sweep counts due actions in the index alone.
        _partial("ix_actions_due", "queue", "queued_at", "not_before", where="state = 'queued'"),
        # For claims: the oldest action of a queue whose inputs a worker's node holds.
        _partial("ix_actions_warm", "queue", "inputs", "queued_at", where="state = 'queued'"),
        # Not of `lease_expires_at`: each heartbeat would write to every index of the table.
        _partial("ix_actions_running", "worker_id", where="state = 'running'"),
        # For the foreign key, when a worker's row is removed: it cannot use the index of the running ones.
        _partial("ix_actions_worker_id", "worker_id", where="worker_id IS NOT NULL"),
        _partial("ix_actions_waiting", "depends_on", "key", where="state = 'waiting'"),
        # For estimates: the last attempts of a queue that succeeded, of all models and of one.
        _partial("ix_actions_succeeded", "queue", "queued_at", where="state = 'succeeded'"),
        _partial("ix_actions_succeeded_from", "depends_on", "queue", "queued_at", where="state = 'succeeded'"),
    )  # fmt: skip

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    stage: Mapped[str] = mapped_column(String(16))
    queue: Mapped[str] = mapped_column(String(200))
    document: Mapped[_Json]  # the document whose SHA-256 is the key
    # What a worker needs: enginefarm.contract.work writes and reads it. The column keeps its first name for workers of
    # earlier releases, which read it while the farm is upgraded.
    work: Mapped[_Json] = mapped_column("job")
    depends_on: Mapped[str | None] = mapped_column(ForeignKey("actions.key"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)  # attempts since it was last opened; the retry cap counts these
    worker_id: Mapped[str | None] = mapped_column(ForeignKey("workers.id"))
    lease_expires_at: Mapped[datetime | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    queued_at: Mapped[datetime] = mapped_column(server_default=now())
    not_before: Mapped[datetime | None]  # a retry waits until this time
    # The last attempt failed on this worker: until `avoid_until` only other workers may claim the action.
    avoid_worker: Mapped[str | None] = mapped_column(String(32))
    avoid_until: Mapped[datetime | None]
    announced_at: Mapped[datetime | None]
    # What a worker fetches first: the convert action's key for a build, the hash of the model's identity for a convert.
    # None: written before revision 0016.
    inputs: Mapped[str | None] = mapped_column(String(64))
    # How often a younger action was claimed first while this one was the oldest of its queue, and when that began: see
    # models.queue.order.
    overtaken: Mapped[int | None]
    overtaken_at: Mapped[datetime | None]
    # A hint to the others that this worker fetches the inputs ahead. Claims ignore it.
    prefetched_by: Mapped[str | None] = mapped_column(String(32))
    prefetched_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class AttemptRow(Row):
    """One try of an action by one worker."""

    __tablename__ = "attempts"
    __table_args__ = (
        _one_of("outcome", Outcome),
        CheckConstraint("(outcome = 'running') = (ended_at IS NULL)", name="ended_when_it_has_an_outcome"),
        Index("uq_attempts_one_running", "action_key", unique=True, postgresql_where=text("outcome = 'running'"),
              sqlite_where=text("outcome = 'running'")),
        Index("ix_attempts_worker_id_ended_at", "worker_id", "ended_at"),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    outcome: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    ended_at: Mapped[datetime | None]
    failure: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    steps: Mapped[_Json] = mapped_column(default=dict)  # seconds by step
    # The warm file that it started from and the seconds that saved: see WarmFileRow.
    warmth: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    log_digest: Mapped[str | None] = mapped_column(String(71), index=True)  # the complete log, once it is in the store
    log_size: Mapped[int | None] = mapped_column(BigInteger)


class GpuLockRow(Row):
    """A GPU on which the worker of an attempt runs programs. The row may outlive the attempt until `expires_at`: the
    programs of a cancelled action need time to end. See models.lifecycle.gpu_locks."""

    __tablename__ = "gpu_locks"
    __table_args__ = (
        ForeignKeyConstraint(["action_key", "attempt"], ["attempts.action_key", "attempts.number"]),
    )  # fmt: skip

    gpu: Mapped[str] = mapped_column(String(128), primary_key=True)  # UUID of the card, or of its MIG device
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    action_key: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int]
    expires_at: Mapped[datetime]
    locked_at: Mapped[datetime] = mapped_column(server_default=now())


class LogChunkRow(Row):
    """A piece of the log of a running attempt. Removed by the transaction that records the complete log as a blob."""

    __tablename__ = "log_chunks"
    __table_args__ = (
        ForeignKeyConstraint(["action_key", "attempt"], ["attempts.action_key", "attempts.number"]),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # byte offset in the log
    chunk: Mapped[bytes] = mapped_column("data")


class BuildRow(Row):
    """One caller's request. `state` is `open` until its action ends or the caller cancels."""

    __tablename__ = "builds"
    __table_args__ = (
        _one_of("state", BuildRowState),
        CheckConstraint("disposition IN ('cached', 'joined', 'created')", name="disposition_known"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="open_until_ended"),
        CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failed_with_a_reason"),
        CheckConstraint("disposition <> 'cached' OR state = 'succeeded'", name="cached_is_done"),
        Index("ix_builds_key_seq", "key", "seq"),
        _partial("ix_builds_open", "key", where="state = 'open'"),
        # One for each filter of the listing, in its order.
        Index("ix_builds_state_seq", "state", "seq"),
        Index("ix_builds_toolchain_seq", "toolchain", "seq"),
        Index("ix_builds_platform_label_seq", "platform_label", "seq"),
        Index("ix_builds_requested_by_seq", "requested_by", "seq"),
        Index("ix_builds_model_seq", "model", "seq"),
    )  # fmt: skip

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)  # orders builds without a clock
    id: Mapped[str] = mapped_column(String(32), unique=True)
    key: Mapped[str] = mapped_column(String(64))
    disposition: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[_Json]  # normalized
    spec_as_written: Mapped[_Json | None] = mapped_column("asked", JSON(none_as_null=True))  # None: older than 0005
    model: Mapped[str] = mapped_column(Text)
    toolchain: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(32))
    platform: Mapped[_Json]
    platform_label: Mapped[str] = mapped_column(String(128))
    requested_by: Mapped[str | None] = mapped_column(String(64))
    failure: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    ended_at: Mapped[datetime | None]


class BlobRow(Row):
    """A file in the store. Its row is written after the bytes were verified in the store, or when garbage collection
    finds bytes without a row; then it is marked for removal from the start. Only a transaction that holds a marked row
    that nothing refers to deletes the bytes, and the row with them: see models.retention.blob_gc."""

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size_not_negative"),
        _partial("ix_blobs_marked", "digest", where="doomed_at IS NOT NULL"),
    )

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    verified_at: Mapped[datetime] = mapped_column(server_default=now())
    damaged_at: Mapped[datetime | None]  # the store has wrong bytes: the next upload must write them again
    # Nothing referred to it at this time; a publication that refers to it removes the mark.
    marked_for_removal_at: Mapped[datetime | None] = mapped_column("doomed_at")


class ManifestRow(Row):
    """A list of files that makes a directory. Engines and checkpoints with equal files share one."""

    __tablename__ = "manifests"

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)  # bytes of all files
    files: Mapped[int]


class ManifestFileRow(Row):
    """A file of a manifest. It refers to its blob, and so keeps the blob from being removed."""

    __tablename__ = "manifest_files"

    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)


class CheckpointRow(Row):
    """What `convert` produced: one per key, written by the transaction that ended the action."""

    __tablename__ = "checkpoints"

    key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"), index=True)
    attempt: Mapped[int]
    facts: Mapped[_Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    quarantined_at: Mapped[datetime | None]  # withdrawn: readers ask models.catalogue.visibility
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    # Removed after a grace, unless something keeps it again: see models.retention.removal.
    marked_for_removal_at: Mapped[datetime | None] = mapped_column("doomed_at")


class EngineRow(Row):
    """What `build` produced: one published engine per key."""

    __tablename__ = "engines"
    __table_args__ = (
        Index("ix_engines_created_at_key", "created_at", "key"),
        _partial("ix_engines_repository_key", "repository", "key", where="quarantined_at IS NULL"),
        _partial("ix_engines_unregistered", "key", where="registered_at IS NULL OR registered_at <> created_at"),
        _partial("ix_engines_served", "created_at", "key", where="quarantined_at IS NULL"),
        _partial("ix_engines_served_model", "model", "created_at", "key", where="quarantined_at IS NULL"),
    )

    key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"), index=True)
    attempt: Mapped[int]
    model: Mapped[str] = mapped_column(Text)
    toolchain: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(32))
    platform: Mapped[_Json]  # every fact of the machine that built it, not only those that bind the engine
    bound_to: Mapped[_Json]
    driver_binding: Mapped[str] = mapped_column(String(16))
    spec: Mapped[_Json]
    provenance: Mapped[_Json]
    pinned: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    quarantined_at: Mapped[datetime | None]  # withdrawn: readers ask models.catalogue.visibility
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    # Removed after a grace, and served until then: see models.retention.removal.
    marked_for_removal_at: Mapped[datetime | None] = mapped_column("doomed_at")
    pulled_at: Mapped[datetime | None]  # when the API last issued a link to one of its files, to the minute
    # What the registry names the engine by. Written by the API alone, some time after the publication: valid only if
    # `registered_at` is the `created_at` of now. See models.queries.registry_entries.
    repository: Mapped[str | None] = mapped_column(Text().with_variant(Text(collation="C"), "postgresql"))
    oci_manifest: Mapped[str | None] = mapped_column(String(71), index=True)
    oci_config: Mapped[str | None] = mapped_column(String(71), index=True)
    registered_at: Mapped[datetime | None]


Index("ix_builds_any_revision_seq", text_before_at(BuildRow.model), BuildRow.seq)
Index("ix_builds_gpu_seq", gpu_of(BuildRow.platform), BuildRow.seq)
_partial("ix_engines_served_any_revision", text_before_at(EngineRow.model), EngineRow.created_at, EngineRow.key,
         where="quarantined_at IS NULL")  # fmt: skip


class ImportRow(Row):
    """An attempt that ran nothing: another farm built the engine and signed this statement. Never removed."""

    __tablename__ = "imports"
    __table_args__ = (
        ForeignKeyConstraint(["action_key", "attempt"], ["attempts.action_key", "attempts.number"]),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    envelope: Mapped[_Json]  # the original statement with the original signature, unchanged
    # Of an engine that the exporting farm had imported: the statement that it verified the envelope, signed by it.
    summary: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    signer: Mapped[str] = mapped_column(String(64))  # id of the trusted key that signed the summary, else the envelope
    imported_by: Mapped[str | None] = mapped_column(String(64))
    imported_at: Mapped[datetime] = mapped_column(server_default=now())


class FarmRow(Row):
    """The one row that identifies this farm. The first API process that starts writes it; nothing changes it."""

    __tablename__ = "farm"
    __table_args__ = (CheckConstraint("number = 1", name="one_row"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    id: Mapped[str] = mapped_column(String(36))  # a random UUID


class RevocationRow(Row):
    """A recall of one engine with exactly these files. Never removed: the number of rows orders the signed lists.

    `lifted_at` is set when exactly these files are imported again under the key.
    """

    __tablename__ = "revocations"

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(64), index=True)
    manifest: Mapped[str] = mapped_column(String(71))
    reason: Mapped[str] = mapped_column(Text)
    revoked_at: Mapped[datetime] = mapped_column(server_default=now())
    lifted_at: Mapped[datetime | None]


class RemovalRow(Row):
    """An engine or a checkpoint that was removed, and why. Never removed: readers of the engine get the reason."""

    __tablename__ = "removals"
    __table_args__ = (CheckConstraint("kind IN ('engine', 'checkpoint')", name="kind_known"),)

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(64), index=True)
    manifest: Mapped[str] = mapped_column(String(71))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes of all its files; other engines may share some
    model: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    removed_by: Mapped[str | None] = mapped_column(String(64))
    removed_at: Mapped[datetime] = mapped_column(server_default=now())


class DryRunRemovalRow(Row):
    """An engine that a dry run of garbage collection would remove. The run deletes its rows when it ends, and a later
    one those of a run that died."""

    __tablename__ = "dry_run_removals"

    run: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class WarmFileRow(Row):
    """A file that makes a stage faster, as the last successful run wrote it. Losing it costs time and nothing else."""

    __tablename__ = "warm_files"
    __table_args__ = (CheckConstraint("length(key) = 64", name="key_is_sha256"),)

    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of `document`
    document: Mapped[_Json]  # names everything that the file depends on
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)
    updated_at: Mapped[datetime] = mapped_column(server_default=now())


class WorkerRow(Row):
    """A worker's process. `draining_at` and `quarantined_at` outlive its silence: they decide its state when it reports
    again. See models.fleet.worker_states."""

    __tablename__ = "workers"
    __table_args__ = (
        _one_of("state", WorkerState),
        CheckConstraint("state <> 'quarantined' OR quarantined_at IS NOT NULL", name="quarantined_at_a_time"),
        Index("ix_workers_name", "name"),
        # Not of `last_seen_at`: each report would write to every index of the table.
        _partial("ix_workers_present", "name", where="state <> 'gone'"),
        _partial("ix_workers_quarantined", "name", where="quarantined_at IS NOT NULL"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))
    platform: Mapped[_Json]
    host: Mapped[_Json]
    capabilities: Mapped[list[Any]] = mapped_column(JSON())
    queues: Mapped[list[Any]] = mapped_column(JSON())
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=now())
    draining_at: Mapped[datetime | None]
    quarantined_at: Mapped[datetime | None]
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    released_at: Mapped[datetime | None]  # failures before do not count any more
    # REVISION of the worker's program. None: older than 0007, it refuses new work only while its row is `draining`.
    catalogue_revision: Mapped[str | None] = mapped_column(String(32))
    # The PostgreSQL account that inserted the row, filled in by the server and never by a program. Row-level security
    # lets an account change only what its own workers run: see migrations.roles. SQLite has no accounts.
    account: Mapped[str | None] = mapped_column(String(64), server_default=FetchedValue())


class FileDigestRow(Row):
    """The digest of a file of a `file:` model, valid while the file's stamp (inode, size, mtime) stays the same."""

    __tablename__ = "file_digests"

    path: Mapped[str] = mapped_column(Text, primary_key=True)
    stamp: Mapped[str] = mapped_column(String(128))
    digest: Mapped[str] = mapped_column(String(71))


class ApiKeyRow(Row):
    """A key's SHA-256, never the key. Keys are 256 random bits, so a slow hash would protect nothing.

    A name may have several rows: at most one is current, the others are revoked or replaced. A replaced key is accepted
    until `expires_at`, which a rotation sets. An expired key stays current until its name gets a new key.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("uq_api_keys_current_name", "name", unique=True,
              postgresql_where=text("revoked_at IS NULL AND replaced_at IS NULL"),
              sqlite_where=text("revoked_at IS NULL AND replaced_at IS NULL")),
    )  # fmt: skip

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]] = mapped_column(JSON())
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    replaced_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # up to a minute old
