"""Publish a stage's output. The transaction that ends an attempt is the one that makes its output visible."""

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
    claim: Claim,
    manifest: Manifest,
    *,
    facts: dict[str, Any],
    steps: dict[str, float],
    rewritten: Collection[str] = (),
) -> list[Announcement]:
    """End a convert attempt with its checkpoint, and queue the builds that wait for it.

    The caller uploaded and verified every file of `manifest` before. `rewritten` are the digests of the files that were
    known to be damaged in the store and that it wrote again. `steps` are seconds by step. Before it commits, the caller
    asks `require_stored` whether the store still has all files.

    Returns the builds to announce.

    Raises:
        Fenced: the lease was lost; nothing becomes visible.
        IntegrityError: a file is damaged in the store and was not written again.
    """
    digest = record_manifest(session, manifest, rewritten)
    _end_claim(session, claim, steps)
    values = {"key": claim.key, "manifest": digest, "attempt": claim.attempt, "facts": facts}
    upsert(session, CheckpointRow, values | _published_anew())
    # In the same transaction, so that a crash cannot leave builds that wait for a published checkpoint.
    return release_dependents(session, claim.key)


def publish_engine(
    session: Session,
    claim: Claim,
    manifest: Manifest,
    *,
    engine: dict[str, Any],
    steps: dict[str, float],
    rewritten: Collection[str] = (),
) -> None:
    """End a build attempt with its engine, and every build that waits for it.

    `engine` has the attributes of EngineRow that only the worker knows; for the others see `publish_checkpoint`.

    Raises:
        Fenced: the lease was lost; nothing becomes visible.
        IntegrityError: a file is damaged in the store and was not written again.
    """
    digest = record_manifest(session, manifest, rewritten)
    _end_claim(session, claim, steps)
    values = {"key": claim.key, "manifest": digest, "attempt": claim.attempt}
    upsert(session, EngineRow, values | engine | _published_anew())
    # In the same transaction, so that a caller who reads `succeeded` always gets the engine.
    end_builds(session, claim.key, BuildRowState.SUCCEEDED)


def _end_claim(session: Session, claim: Claim, steps: dict[str, float]) -> None:
    """The fence. It comes after the rows of blobs because their locks come before that of the action; if it raises, the
    transaction is rolled back with them."""
    move(session, claim.key, ActionState.SUCCEEDED, attempt=claim.attempt, progress=1.0, message=None)
    end_attempt(session, claim.key, claim.attempt, Outcome.SUCCEEDED, steps=steps)


def _published_anew() -> dict[str, Any]:
    """Publishing over an old row ends its withdrawal and its mark for removal."""
    return {"created_at": now(), "quarantined_at": None, "quarantine_reason": None, "marked_for_removal_at": None}


def record_manifest(session: Session, manifest: Manifest, rewritten: Collection[str] = ()) -> str:
    """Write the rows of a manifest and its blobs, and hold them until the transaction ends; returns its digest.

    While they are held, nothing removes them; afterwards the rows that refer to them keep them.

    Raises:
        IntegrityError: a file is damaged in the store and is not among `rewritten`.
    """
    digest = manifest.digest
    sizes = blob_sizes(manifest)
    record_blobs(session, sizes)
    # Damage is looked up only now: a repair may mark a blob until its row is held.
    if rewritten:
        mark_rewritten(session, rewritten)
    damaged = damaged_blobs(session, sizes)
    if damaged:
        raise IntegrityError(f"{min(damaged)} is damaged in the store: write it again")
    row = {"digest": digest, "size": manifest.size, "files": len(manifest.files)}
    files = [{"manifest": digest, "path": entry.path, "blob": entry.digest} for entry in manifest.files]
    lock = select(ManifestRow.digest).where(ManifestRow.digest == digest).with_for_update(read=True, key_share=True)
    # Repeat: between the insert and the lock, a clean-up may remove a manifest that nothing refers to yet.
    while session.execute(lock).first() is None:
        if insert_new(session, ManifestRow, row):
            insert_new(session, ManifestFileRow, files)
    return digest


def blob_sizes(manifest: Manifest) -> dict[Digest, int]:
    """The bytes of each blob of a manifest, by digest."""
    return {entry.digest: entry.size for entry in manifest.files}


def read_manifest(session: Session, digest: str) -> Manifest:
    """
    Raises:
        NotFound: the manifest was removed a moment ago, with the engine or checkpoint that had it.
    """
    rows = session.execute(
        select(ManifestFileRow.path, BlobRow.digest, BlobRow.size)
        .join(BlobRow, BlobRow.digest == ManifestFileRow.blob)
        .where(ManifestFileRow.manifest == digest)
    ).all()
    if not rows:
        raise NotFound(f"{digest} was removed a moment ago; GET /v1/engines lists the engines")
    return Manifest.of(FileEntry(path=row.path, digest=row.digest, size=row.size) for row in rows)
