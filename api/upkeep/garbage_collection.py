"""A clean-up: what goes is marked, what was marked long ago is removed, and so are bytes that nothing refers to.

Small transactions, each of them conditional: it may be stopped anywhere and run twice at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice

from starlette.concurrency import run_in_threadpool

from api.control import ControlPlane
from enginefarm.contract.errors import EnginefarmError
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, FileTotals, RemovalCandidate
from models.retention import blob_gc as garbage
from models.retention import removal
from models.retention.policies import checkpoints_to_remove, engines_to_remove, freed_bytes

log = logging.getLogger(__name__)

_BATCH = 500  # names of the store that are looked up at once


async def clean_up_forever(control: ControlPlane, *, every_seconds: float) -> None:
    """Until cancelled. Several APIs, and one that is often started anew, each begin somewhere in the first interval."""
    await asyncio.sleep(random.uniform(0, every_seconds))  # noqa: S311  # nobody gains by guessing it
    while True:
        try:
            done = await run_in_threadpool(clean_up, control, CleanUpRequest(), by=None)
        except EnginefarmError as error:
            log.warning("the clean-up is put off: %s", error.detail)
        except Exception:
            log.exception("the clean-up met a defect; it is tried again")
        else:
            log.info("cleaned up: %d marked or removed, %d bytes deleted", len(done.going), done.deleted.size)
        await asyncio.sleep(every_seconds)


def clean_up(control: ControlPlane, wanted: CleanUpRequest, *, by: str | None) -> CleanUpResult:
    grace = _grace_seconds(control)
    going, frees = _planned(control, wanted)
    if wanted.dry_run:
        done = CleanUpResult(dry_run=True, frees=frees, grace_seconds=grace, going=_due(control, going, grace))
        return done.model_copy(update=_bytes_now(control, grace))
    with control.database.write() as session:
        removal.mark(session, going)
    going = [_removed(control, found, grace, by) for found in going]
    with control.database.write() as session:
        removal.remove_manifests(session)
        garbage.mark_unreferenced(session)
    for batch in _listed(control):
        with control.database.write() as session:
            garbage.adopt(session, batch)
    deleted = _delete(control, grace)
    with control.database.read() as session:
        waiting = garbage.total_in_grace(session, grace_seconds=grace)
    uploads = control.store.abort_stale(timedelta(seconds=grace))
    return CleanUpResult(
        dry_run=False, going=going, frees=frees, deleted=deleted, waiting=waiting, uploads=uploads, grace_seconds=grace
    )


def _grace_seconds(control: ControlPlane) -> float:
    """Never shorter than a link is good for."""
    return max(control.settings.gc_grace_seconds, float(control.settings.link_seconds))


def _planned(control: ControlPlane, wanted: CleanUpRequest) -> tuple[list[RemovalCandidate], int]:
    settings = control.settings
    policies = settings.retention if wanted.policies is None else wanted.policies
    with control.database.read() as session:
        engines = engines_to_remove(session, policies, link_seconds=settings.link_seconds)
        checkpoints = checkpoints_to_remove(
            session, [found.key for found in engines], keep_days=settings.gc_checkpoint_days
        )
        going = engines + checkpoints
        return going, freed_bytes(session, going)


def _due(control: ControlPlane, going: list[RemovalCandidate], grace: float) -> list[RemovalCandidate]:
    with control.database.read() as session:
        due = removal.due(session, grace_seconds=grace)
    return [found.model_copy(update={"removed": found.key in due}) for found in going]


def _removed(control: ControlPlane, found: RemovalCandidate, grace: float, by: str | None) -> RemovalCandidate:
    with control.database.write() as session:
        removed = removal.remove(session, found, grace_seconds=grace, removed_by=by)
    if removed:
        log.info("removed %s %s: %s", found.kind, found.key[:12], found.reason)
    return found.model_copy(update={"removed": removed})


def _bytes_now(control: ControlPlane, grace: float) -> dict[str, FileTotals]:
    with control.database.read() as session:
        waiting = garbage.total_in_grace(session, grace_seconds=grace)
        due = garbage.total_removable(session, grace_seconds=grace)
        for batch in _listed(control):
            orphans = garbage.orphans(session, batch).values()
            waiting = FileTotals(files=waiting.files + len(orphans), size=waiting.size + sum(orphans))
    return {"waiting": waiting, "deleted": due}


def _listed(control: ControlPlane) -> Iterator[dict[str, int]]:
    listed = control.store.list()
    while batch := dict(islice(listed, _BATCH)):
        yield batch


def _delete(control: ControlPlane, grace: float) -> FileTotals:
    with control.database.read() as session:
        digests = garbage.removable(session, grace_seconds=grace)
    files = size = 0
    for digest in digests:
        with control.database.write() as session:
            freed = garbage.remove(session, control.store, digest, grace_seconds=grace)
        if freed is not None:
            log.info("deleted blob %s, %d bytes", digest, freed)
            files, size = files + 1, size + freed
    return FileTotals(files=files, size=size)
