"""Garbage collection: mark engines and checkpoints for removal, remove those marked long ago, delete unused blobs.

Every step is a small transaction that checks its condition again, so a run may stop anywhere, and two may run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import islice

from api.control import ControlPlane
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, FileTotals, RemovalCandidate
from models.retention import blob_gc, removal
from models.retention.policies import checkpoints_to_remove, engines_to_remove, freed_bytes

log = logging.getLogger(__name__)

_BATCH = 500  # blobs of the store that one transaction looks up


async def collect_garbage(control: ControlPlane) -> None:
    """Run garbage collection once by the farm's own policies, in the thread that it has."""
    result = await control.lanes.clean_up.run(None, partial(clean_up, control, CleanUpRequest(), by=None))
    log.info("garbage collection: %d marked or removed, %d bytes deleted", len(result.going), result.deleted.size)


def clean_up(control: ControlPlane, request: CleanUpRequest, *, by: str | None) -> CleanUpResult:
    """Run garbage collection once, or say what a run would do (`request.dry_run`).

    Args:
        by: the caller's name, recorded with each removal; None for a run of the farm itself.
    """
    settings = control.settings
    # Never shorter than a link is valid: a node that holds one may still be reading the bytes.
    grace = max(settings.gc_grace_seconds, float(settings.link_seconds))
    policies = request.policies
    if policies is None:
        policies = settings.retention
    with control.database.read() as session:
        engines = engines_to_remove(session, policies, link_seconds=settings.link_seconds)
        # A checkpoint is kept for the engines that stay, so the engines are chosen first.
        engine_keys = [engine.key for engine in engines]
        candidates = engines + checkpoints_to_remove(session, engine_keys, keep_days=settings.gc_checkpoint_days)
        frees = freed_bytes(session, candidates)
    if request.dry_run:
        return _dry_run(control, candidates, frees, grace)

    # Rows first, bytes last: no engine is served whose bytes are deleted already.
    with control.database.write() as session:
        removal.mark(session, candidates)
    going = []
    for candidate in candidates:
        with control.database.write() as session:
            removed = removal.remove(session, candidate, grace_seconds=grace, removed_by=by)
        if removed:
            log.info("removed %s %s: %s", candidate.kind, candidate.key[:12], candidate.reason)
        going.append(candidate.model_copy(update={"removed": removed}))
    with control.database.write() as session:
        removal.remove_manifests(session)
        blob_gc.mark_unreferenced(session)
    # Blobs without a row are left by uploads that never were published. They get a row, and with it a grace.
    for batch in _stored_blobs(control):
        with control.database.write() as session:
            blob_gc.adopt(session, batch)
    deleted = _delete_blobs(control, grace)
    with control.database.read() as session:
        waiting = blob_gc.total_in_grace(session, grace_seconds=grace)
    # Uploads in parts that were never completed are in no listing, but an S3 server bills them.
    uploads = control.store.abort_stale(timedelta(seconds=grace))
    return CleanUpResult(
        dry_run=False, going=going, frees=frees, deleted=deleted, waiting=waiting, uploads=uploads, grace_seconds=grace
    )


def _dry_run(control: ControlPlane, candidates: list[RemovalCandidate], frees: int, grace: float) -> CleanUpResult:
    """The result that a run would have now. Writes nothing."""
    with control.database.read() as session:
        due_keys = removal.due(session, grace_seconds=grace)
        in_grace = blob_gc.total_in_grace(session, grace_seconds=grace)
        deleted = blob_gc.total_removable(session, grace_seconds=grace)
        files, size = in_grace.files, in_grace.size
        for batch in _stored_blobs(control):
            # A run would give these a row, so that their grace begins.
            orphan_sizes = blob_gc.orphans(session, batch).values()
            files += len(orphan_sizes)
            size += sum(orphan_sizes)
    going = [candidate.model_copy(update={"removed": candidate.key in due_keys}) for candidate in candidates]
    return CleanUpResult(
        dry_run=True,
        going=going,
        frees=frees,
        deleted=deleted,
        waiting=FileTotals(files=files, size=size),
        grace_seconds=grace,
    )


def _stored_blobs(control: ControlPlane) -> Iterator[dict[str, int]]:
    """The store's blobs, as batches of sizes in bytes by digest: a store may have millions."""
    blobs = control.store.list()
    while True:
        batch = dict(islice(blobs, _BATCH))
        if not batch:
            return
        yield batch


def _delete_blobs(control: ControlPlane, grace: float) -> FileTotals:
    """Delete the blobs whose grace is over, and return what was deleted."""
    with control.database.read() as session:
        digests = blob_gc.removable(session, grace_seconds=grace)
    files = 0
    size = 0
    for digest in digests:
        # A transaction for each blob: it locks the row while the store deletes the bytes, and publishers wait for it.
        with control.database.write() as session:
            freed = blob_gc.remove(session, control.store, digest, grace_seconds=grace)
        # None: a publisher refers to it again or has locked it, or another run deleted it.
        if freed is not None:
            log.info("deleted blob %s, %d bytes", digest, freed)
            files += 1
            size += freed
    return FileTotals(files=files, size=size)
