"""Give bytes a name. The transaction that ends an attempt is the one that makes its output visible."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError, NotFound
from enginefarm.contract.manifest import FileEntry, Manifest
from models.catalogue.clock import now
from models.catalogue.rows import BlobRow, CheckpointRow, EngineRow, ManifestFileRow, ManifestRow
from models.catalogue.states import ActionState, BuildRowState, Outcome
from models.catalogue.upsert import insert_new, upsert
from models.lifecycle.blobs import damaged_blobs, mark_rewritten, record_blobs
from models.lifecycle.leases import Claim
from models.lifecycle.transitions import end_attempt, end_builds, move, release_dependents
from models.queue.names import Announcement


def publish_checkpoint(
    session: Session,
    held: Claim,
    manifest: Manifest,
    *,
    facts: dict[str, Any],
    steps: dict[str, float],
    rewritten: Collection[str] = (),
) -> list[Announcement]:
    """End a convert attempt with its checkpoint, and queue the builds that wait for it.

    The caller uploaded and verified every file of `manifest` before; of those that were known to be damaged in the
    store, it wrote `rewritten` (digests) anew. Before it commits it asks `require_stored` whether all are there still.

    Raises:
        Fenced: the lease was lost; nothing becomes visible.
        IntegrityError: a file that was in the store already was found damaged meanwhile.
    """
    digest = record_manifest(session, manifest, rewritten)
    _end(session, held, steps)
    values = {"key": held.key, "manifest": digest, "attempt": held.attempt, "facts": facts}
    upsert(session, CheckpointRow, values | _back())
    return release_dependents(session, held.key)


def publish_engine(
    session: Session,
    held: Claim,
    manifest: Manifest,
    *,
    engine: dict[str, Any],
    steps: dict[str, float],
    rewritten: Collection[str] = (),
) -> None:
    """End a build attempt with its engine, and every build that waits for it.

    `engine` holds the columns of EngineRow that only the worker knows.

    Raises:
        Fenced: the lease was lost; nothing becomes visible.
        IntegrityError: as above.
    """
    digest = record_manifest(session, manifest, rewritten)
    _end(session, held, steps)
    upsert(session, EngineRow, {"key": held.key, "manifest": digest, "attempt": held.attempt} | engine | _back())
    end_builds(session, held.key, BuildRowState.SUCCEEDED)


def _end(session: Session, held: Claim, steps: dict[str, float]) -> None:
    """The fence: it undoes what was written before, the rows of blobs, whose locks come before that of the action."""
    move(session, held.key, ActionState.SUCCEEDED, attempt=held.attempt, progress=1.0, message=None)
    end_attempt(session, held.key, held.attempt, Outcome.SUCCEEDED, steps=steps)


def _back() -> dict[str, Any]:
    """What was taken out, or was to be removed, comes back new."""
    return {"created_at": now(), "quarantined_at": None, "quarantine_reason": None, "doomed_at": None}


def damaged_among(session: Session, manifest: Manifest) -> set[str]:
    """The blobs of `manifest` that are known to be damaged in the store."""
    return damaged_blobs(session, blob_sizes(manifest))


def record_manifest(session: Session, manifest: Manifest, rewritten: Collection[str] = ()) -> str:
    """The rows of a manifest and its blobs. They are held until the transaction ends: nothing removes them before,
    and what refers to them afterwards keeps them."""
    digest = manifest.digest
    record_blobs(session, blob_sizes(manifest))
    if rewritten:
        mark_rewritten(session, rewritten)
    if damaged := damaged_among(session, manifest):
        raise IntegrityError(f"{min(damaged)} was found damaged in the store: it must be written again")
    row = {"digest": digest, "size": manifest.size, "files": len(manifest.files)}
    files = [{"manifest": digest, "path": entry.path, "blob": entry.digest} for entry in manifest.files]
    while not _hold(session, digest):
        if insert_new(session, ManifestRow, row):
            insert_new(session, ManifestFileRow, files)
    return digest


def _hold(session: Session, digest: str) -> bool:
    held = select(ManifestRow.digest).where(ManifestRow.digest == digest).with_for_update(read=True, key_share=True)
    return session.execute(held).first() is not None


def blob_sizes(manifest: Manifest) -> dict[Digest, int]:
    """The bytes of each blob of a manifest."""
    return {entry.digest: entry.size for entry in manifest.files}


def read_manifest(session: Session, digest: str) -> Manifest:
    """
    Raises:
        NotFound: what it belonged to was removed a moment ago.
    """
    rows = session.execute(
        select(ManifestFileRow.path, BlobRow.digest, BlobRow.size)
        .join(BlobRow, BlobRow.digest == ManifestFileRow.blob)
        .where(ManifestFileRow.manifest == digest)
    ).all()
    if not rows:
        raise NotFound(f"{digest} was removed a moment ago; GET /v1/engines lists what there is")
    return Manifest.of(FileEntry(path=row.path, digest=row.digest, size=row.size) for row in rows)
