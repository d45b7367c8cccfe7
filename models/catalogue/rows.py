"""The catalogue's tables. What may be half-done is said at each table; CHECKs refuse what must never be.

A row of `checkpoints` or `engines` is written in the same transaction that ends the action that made it,
after its bytes were uploaded and verified: there is no name without bytes. Blobs that were uploaded by an
attempt that was then fenced have no row; they are garbage and harmless, because nothing refers to them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
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
from models.catalogue.states import ActionState, BuildRowState, Outcome, WorkerState

REVISION = "0007"  # of the migration that leads to these tables

_Sequence = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts only INTEGER PRIMARY KEY by itself
_Json = dict[str, Any]


def _one_of(column: str, states: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{state}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


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

    `attempt` is the fencing token: it grows with every claim and never shrinks, whatever happens to the row.
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
        Index("ix_actions_queue_queued", "queue", "queued_at", postgresql_where=text("state = 'queued'"),
              sqlite_where=text("state = 'queued'")),
        Index("ix_actions_lease", "lease_expires_at", postgresql_where=text("state = 'running'"),
              sqlite_where=text("state = 'running'")),
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
    tries: Mapped[int] = mapped_column(default=0)  # attempts since it was last opened: what the retry cap counts
    worker_id: Mapped[str | None] = mapped_column(ForeignKey("workers.id"))
    lease_expires_at: Mapped[datetime | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str | None] = mapped_column(Text)
    failure: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    queued_at: Mapped[datetime] = mapped_column(server_default=now())
    not_before: Mapped[datetime | None]  # a retry waits until then
    avoid_worker: Mapped[str | None] = mapped_column(String(32))  # it failed there: others first, until `avoid_until`
    avoid_until: Mapped[datetime | None]
    announced_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now())


class AttemptRow(Row):
    """One try of an action by one worker."""

    __tablename__ = "attempts"
    __table_args__ = (
        _one_of("outcome", Outcome),
        CheckConstraint("(outcome = 'running') = (ended_at IS NULL)", name="ended_when_it_has_an_outcome"),
        Index("uq_attempts_one_running", "action_key", unique=True, postgresql_where=text("outcome = 'running'"),
              sqlite_where=text("outcome = 'running'")),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    outcome: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    ended_at: Mapped[datetime | None]
    failure: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))
    steps: Mapped[_Json] = mapped_column(default=dict)  # seconds by step
    warmth: Mapped[_Json | None] = mapped_column(
        JSON(none_as_null=True)
    )  # a warm file it started from: see WarmFileRow
    log_digest: Mapped[str | None] = mapped_column(String(71), index=True)  # the whole log, once it is in the store
    log_size: Mapped[int | None] = mapped_column(BigInteger)


class LogChunkRow(Row):
    """A piece of the log of a running attempt. Removed once the whole log is a blob."""

    __tablename__ = "log_chunks"
    __table_args__ = (
        ForeignKeyConstraint(["action_key", "attempt"], ["attempts.action_key", "attempts.number"]),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # byte offset in the log
    data: Mapped[bytes]


class BuildRow(Row):
    """One caller's request. `state` is `open` while its action is still to end."""

    __tablename__ = "builds"
    __table_args__ = (
        _one_of("state", BuildRowState),
        CheckConstraint("disposition IN ('cached', 'joined', 'created')", name="disposition_known"),
        CheckConstraint("(state = 'open') = (ended_at IS NULL)", name="open_until_ended"),
        CheckConstraint("(state = 'failed') = (failure IS NOT NULL)", name="failed_with_a_reason"),
        CheckConstraint("disposition <> 'cached' OR state = 'succeeded'", name="cached_is_done"),
        Index("ix_builds_open", "key", postgresql_where=text("state = 'open'"), sqlite_where=text("state = 'open'")),
    )  # fmt: skip

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)  # newest first, without clocks
    id: Mapped[str] = mapped_column(String(32), unique=True)
    key: Mapped[str] = mapped_column(String(64), index=True)
    disposition: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    spec: Mapped[_Json]  # normalised
    asked: Mapped[_Json | None] = mapped_column(JSON(none_as_null=True))  # as the caller wrote it
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
    """A file in the store. The row is written only after the bytes were verified there, or found there without a row:
    then it is doomed. The bytes are deleted only by who holds a doomed row that nothing refers to, and the row with
    them: see models.garbage."""

    __tablename__ = "blobs"
    __table_args__ = (CheckConstraint("size >= 0", name="size_not_negative"),)

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    verified_at: Mapped[datetime] = mapped_column(server_default=now())
    damaged_at: Mapped[datetime | None]  # the store holds other bytes now: the next upload must write it again
    doomed_at: Mapped[datetime | None]  # nothing refers to it; a publication that does takes the mark off


class ManifestRow(Row):
    __tablename__ = "manifests"

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)  # of all files together
    files: Mapped[int]


class ManifestFileRow(Row):
    __tablename__ = "manifest_files"

    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1024), primary_key=True)
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)


class CheckpointRow(Row):
    """What `convert` produced. One per key, written by the transaction that ended the action."""

    __tablename__ = "checkpoints"

    key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"))
    attempt: Mapped[int]
    facts: Mapped[_Json] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    quarantined_at: Mapped[datetime | None]  # taken out: see models.published, which every reader asks
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    doomed_at: Mapped[datetime | None]  # to be removed after a grace: see models.removal


class EngineRow(Row):
    """What `build` produced: one published engine per key."""

    __tablename__ = "engines"

    key: Mapped[str] = mapped_column(ForeignKey("actions.key"), primary_key=True)
    manifest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"))
    attempt: Mapped[int]
    model: Mapped[str] = mapped_column(Text, index=True)
    toolchain: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(32))
    platform: Mapped[_Json]  # the whole machine that built it, not only what binds the engine
    bound_to: Mapped[_Json]
    driver_binding: Mapped[str] = mapped_column(String(16))
    spec: Mapped[_Json]
    provenance: Mapped[_Json]
    pinned: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)
    quarantined_at: Mapped[datetime | None]  # taken out: see models.published, which every reader asks
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    doomed_at: Mapped[datetime | None]  # to be removed after a grace; served until then: see models.removal
    pulled_at: Mapped[datetime | None]  # when a link to one of its files was last given out, to the minute


class ImportRow(Row):
    """An attempt that ran nothing: the engine came from another farm, with this signed statement. Kept for ever."""

    __tablename__ = "imports"
    __table_args__ = (
        ForeignKeyConstraint(["action_key", "attempt"], ["attempts.action_key", "attempts.number"]),
    )  # fmt: skip

    action_key: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    envelope: Mapped[_Json]  # as it came: the original statement with the original signature
    signer: Mapped[str] = mapped_column(String(64))  # id of the trusted key that signed it
    imported_by: Mapped[str | None] = mapped_column(String(64))
    imported_at: Mapped[datetime] = mapped_column(server_default=now())


class RemovalRow(Row):
    """An engine or a checkpoint that was removed, and why. Kept for ever: it is what readers are told."""

    __tablename__ = "removals"
    __table_args__ = (CheckConstraint("kind IN ('engine', 'checkpoint')", name="kind_known"),)

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(64), index=True)
    manifest: Mapped[str] = mapped_column(String(71))
    size: Mapped[int] = mapped_column(BigInteger)  # bytes of all its files; some may be in other engines too
    model: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    removed_by: Mapped[str | None] = mapped_column(String(64))
    removed_at: Mapped[datetime] = mapped_column(server_default=now())


class WarmFileRow(Row):
    """A file that makes a stage faster, as the last good run left it. Losing it costs time and nothing else."""

    __tablename__ = "warm_files"
    __table_args__ = (CheckConstraint("length(key) = 64", name="key_is_sha256"),)

    key: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of `document`
    document: Mapped[_Json]  # everything that the file depends on
    blob: Mapped[str] = mapped_column(ForeignKey("blobs.digest"), index=True)
    updated_at: Mapped[datetime] = mapped_column(server_default=now())


class WorkerRow(Row):
    """A worker's process. `draining_at` and `quarantined_at` outlive its silence: they decide its state when it reports
    again. See models.fleet.worker_states."""

    __tablename__ = "workers"
    __table_args__ = (
        _one_of("state", WorkerState),
        CheckConstraint("state <> 'quarantined' OR quarantined_at IS NOT NULL", name="quarantined_at_a_time"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    state: Mapped[str] = mapped_column(String(16))
    platform: Mapped[_Json]
    host: Mapped[_Json]
    capabilities: Mapped[list[Any]] = mapped_column(JSON())
    queues: Mapped[list[Any]] = mapped_column(JSON())
    started_at: Mapped[datetime] = mapped_column(server_default=now())
    last_seen_at: Mapped[datetime] = mapped_column(server_default=now(), index=True)
    draining_at: Mapped[datetime | None]
    quarantined_at: Mapped[datetime | None]
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    released_at: Mapped[datetime | None]  # failures before do not count any more
    # REVISION of the worker's program. None: older than 0007, it refuses new work only while its row is `draining`.
    catalogue_revision: Mapped[str | None] = mapped_column(String(32))


class FileDigestRow(Row):
    """The digest of a file of a `file:` model, good for as long as its stamp (inode, size, mtime) stays."""

    __tablename__ = "file_digests"

    path: Mapped[str] = mapped_column(Text, primary_key=True)
    stamp: Mapped[str] = mapped_column(String(128))
    digest: Mapped[str] = mapped_column(String(71))


class ApiKeyRow(Row):
    """A key's SHA-256, never the key. Keys are 256 random bits, so a slow hash would protect nothing."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    secret_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[Any]] = mapped_column(JSON())
    created_at: Mapped[datetime] = mapped_column(server_default=now())
    revoked_at: Mapped[datetime | None]
