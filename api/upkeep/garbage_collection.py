"""Garbage collection: mark engines and checkpoints for removal, remove those marked long ago, delete unused blobs.

Every step is a small transaction that checks its condition again, so a run may stop anywhere, and two may run at once.
Each works on a batch: neither a statement nor the memory grows with the catalogue.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import islice

from sqlalchemy.orm import InstrumentedAttribute, Session

from api.control import ControlPlane
from enginefarm.wire.retention import MAX_GOING, CleanUpRequest, CleanUpResult, FileTotals, RemovalCandidate
from models.catalogue.ranges import KeyRange, next_range
from models.catalogue.rows import BlobRow, ManifestRow
from models.retention import blob_gc, dry_runs, removal
from models.retention.policies import Batch, CheckpointReview, EngineReview, Goes, freed_bytes

log = logging.getLogger(__name__)

BATCH = 500  # rows that one transaction looks at or changes
_LOG_SECONDS = 30.0


async def collect_garbage(control: ControlPlane) -> None:
    """Run garbage collection once by the farm's own policies, in the thread that it has."""
    result = await control.lanes.clean_up.run(None, partial(clean_up, control, CleanUpRequest(), by=None))
    log.info("garbage collection: %d marked or removed, %d bytes deleted", result.total, result.deleted.size)


def clean_up(control: ControlPlane, request: CleanUpRequest, *, by: str | None, batch: int = BATCH) -> CleanUpResult:
    """Run garbage collection once, or say what a run would do (`request.dry_run`).

    Args:
        by: the caller's name, recorded with each removal; None for a run of the farm itself.
        batch: rows that one transaction looks at or changes.
    """
    run = _Run(control, request, by=by, batch=batch)
    if request.dry_run:
        return run.predict()
    return run.carry_out()


class _Run:
    def __init__(self, control: ControlPlane, request: CleanUpRequest, *, by: str | None, batch: int) -> None:
        settings = control.settings
        self._control = control
        self._database = control.database
        self._by = by
        self._batch = batch
        # Never shorter than a link is valid: a node that holds one may still be reading the bytes.
        self._grace = max(settings.gc_grace_seconds, float(settings.link_seconds))
        self._policies = settings.retention if request.policies is None else request.policies
        self._progress: Counter[str] = Counter()
        self._logged = time.monotonic()
        self._going: list[RemovalCandidate] = []
        self._total = 0
        self._deleted = FileTotals()
        self._waiting = FileTotals()

    def carry_out(self) -> CleanUpResult:
        # All marks first: a checkpoint goes with its last engine, and a file with the last of both.
        has_candidates = False
        for decisions in self._decisions(removal.is_marked):
            has_candidates = has_candidates or bool(decisions.candidates)
            if decisions.candidates or decisions.wrongly_marked:
                with self._database.write() as session:
                    removal.mark(session, decisions)
        frees = 0
        if has_candidates:
            frees = self._freed(removal.is_marked)
            # Rows first, bytes last: no engine is served whose bytes are deleted already.
            self._remove_due()
        for manifests in self._ranges("manifests", ManifestRow.digest):
            self._change(partial(removal.unused_manifests, manifests=manifests), removal.remove_manifests)
        for blobs in self._ranges("files", BlobRow.digest):
            self._change(partial(blob_gc.wrong_marks, blobs=blobs), blob_gc.correct_marks)

        # Blobs without a row are left by uploads that never were published. They get a row, and with it a grace.
        for stored in self._stored_blobs():
            with self._database.write() as session:
                blob_gc.adopt(session, stored)
        for blobs in self._marked_blobs("marked files"):
            self._delete(blobs)
        for blobs in self._marked_blobs("files in their grace"):
            with self._database.read() as session:
                waiting = blob_gc.total_in_grace(session, blobs, grace_seconds=self._grace)
            self._waiting = _sum(self._waiting, waiting)
        # Uploads in parts that were never completed are in no listing, but an S3 server bills them.
        uploads = self._control.store.abort_stale(timedelta(seconds=self._grace))
        return CleanUpResult(
            dry_run=False,
            going=self._going,
            total=self._total,
            frees=frees,
            deleted=self._deleted,
            waiting=self._waiting,
            uploads=uploads,
            grace_seconds=self._grace,
        )

    def _remove_due(self) -> None:
        """Remove the marked engines and checkpoints whose grace is over, if it still is decided that they go."""
        for decisions in self._decisions(removal.is_marked):
            due = self._due(decisions)
            removed: set[str] = set()
            if due:
                with self._database.write() as session:
                    removed = removal.remove(session, due, grace_seconds=self._grace, removed_by=self._by)
            self._report([candidate for candidate in decisions.candidates if candidate.since is not None], removed)
            for candidate in due:
                if candidate.key in removed:
                    log.info("removed %s %s: %s", candidate.kind, candidate.key[:12], candidate.reason)

    def predict(self) -> CleanUpResult:
        """The result that a run would have now. Marks and removes nothing."""
        self._forget_dead_runs()
        run = secrets.token_hex(16)
        goes = dry_runs.goes_in(run)
        try:
            for decisions in self._decisions(goes):
                keys = [candidate.key for candidate in decisions.candidates]
                if keys:
                    with self._database.write() as session:
                        dry_runs.note(session, run, keys)
                self._report(decisions.candidates, {candidate.key for candidate in self._due(decisions)})
            frees = self._freed(goes)
        finally:
            self._forget(run)
        for blobs in self._ranges("files", BlobRow.digest):
            with self._database.read() as session:
                deleted = blob_gc.total_removable(session, blobs, grace_seconds=self._grace)
                waiting = blob_gc.total_in_grace(session, blobs, grace_seconds=self._grace)
            self._deleted = _sum(self._deleted, deleted)
            self._waiting = _sum(self._waiting, waiting)
        for stored in self._stored_blobs():
            with self._database.read() as session:
                # A run would give these a row, so that their grace begins.
                sizes = blob_gc.orphans(session, stored).values()
            self._waiting = _sum(self._waiting, FileTotals(files=len(sizes), size=sum(sizes)))
        return CleanUpResult(
            dry_run=True,
            going=self._going,
            total=self._total,
            frees=frees,
            deleted=self._deleted,
            waiting=self._waiting,
            grace_seconds=self._grace,
        )

    def _decisions(self, goes: Goes) -> Iterator[Batch]:
        """The decisions about all engines, then about all checkpoints."""
        settings = self._control.settings
        engines = EngineReview(self._policies, link_seconds=settings.link_seconds, batch_size=self._batch)
        # A checkpoint is kept for the engines that stay, so the engines are decided first.
        checkpoints = CheckpointReview(goes, keep_days=settings.gc_checkpoint_days, batch_size=self._batch)
        for kind, next_batch in (("engines", engines.next_batch), ("checkpoints", checkpoints.next_batch)):
            while True:
                with self._database.read() as session:
                    batch = next_batch(session)
                if batch is None:
                    break
                yield batch
                self._note(kind, batch.examined)
                if batch.examined < self._batch:
                    break

    def _due(self, decisions: Batch) -> list[RemovalCandidate]:
        """The candidates whose grace is over."""
        marked_before = decisions.decided_at - timedelta(seconds=self._grace)
        return [
            candidate
            for candidate in decisions.candidates
            if candidate.since is not None and candidate.since <= marked_before
        ]

    def _report(self, candidates: list[RemovalCandidate], removed: set[str]) -> None:
        self._total += len(candidates)
        for candidate in candidates[: MAX_GOING - len(self._going)]:
            self._going.append(candidate.model_copy(update={"removed": candidate.key in removed}))

    def _freed(self, goes: Goes) -> int:
        freed = 0
        for blobs in self._ranges("files of what goes", BlobRow.digest):
            with self._database.read() as session:
                freed += freed_bytes(session, blobs, goes)
        return freed

    def _change(self, find: Callable[[Session], list[str]], change: Callable[[Session, list[str]], None]) -> None:
        """Change what a look finds. Most looks find nothing: they take no transaction that writes."""
        with self._database.read() as session:
            keys = find(session)
        if keys:
            with self._database.write() as session:
                change(session, keys)

    def _ranges(self, label: str, column: InstrumentedAttribute[str]) -> Iterator[KeyRange]:
        previous = None
        while True:
            with self._database.read() as session:
                previous = next_range(session, column, previous, size=self._batch)
            if previous is None:
                return
            yield previous
            self._note(label, self._batch)

    def _marked_blobs(self, label: str) -> Iterator[KeyRange]:
        previous = None
        while True:
            with self._database.read() as session:
                previous = blob_gc.next_marked(session, previous, size=self._batch)
            if previous is None:
                return
            yield previous
            self._note(label, self._batch)

    def _stored_blobs(self) -> Iterator[dict[str, int]]:
        """The store's blobs, as batches of sizes in bytes by digest: a store may have millions."""
        blobs = self._control.store.list()
        while True:
            batch = dict(islice(blobs, self._batch))
            if not batch:
                return
            yield batch
            self._note("files of the store", len(batch))

    def _delete(self, blobs: KeyRange) -> None:
        """Delete the blobs of a range whose grace is over."""
        with self._database.read() as session:
            digests = blob_gc.removable(session, blobs, grace_seconds=self._grace)
        for digest in digests:
            # A transaction for each blob: it locks the row while the store deletes the bytes, and publishers wait for
            # it.
            with self._database.write() as session:
                freed = blob_gc.remove(session, self._control.store, digest, grace_seconds=self._grace)
            # None: a publisher refers to it again or has locked it, or another run deleted it.
            if freed is not None:
                log.info("deleted blob %s, %d bytes", digest, freed)
                self._deleted = _sum(self._deleted, FileTotals(files=1, size=freed))

    def _forget_dead_runs(self) -> None:
        with self._database.read() as session:
            dead = dry_runs.dead_runs(session)
        for run in dead:
            self._forget(run)

    def _forget(self, run: str) -> None:
        is_left = True
        while is_left:
            with self._database.write() as session:
                is_left = dry_runs.forget(session, run, size=self._batch)

    def _note(self, label: str, count: int) -> None:
        """Log the progress from time to time."""
        self._progress[label] += count
        if time.monotonic() - self._logged > _LOG_SECONDS:
            self._logged = time.monotonic()
            examined = ", ".join(f"{number:,} {name}" for name, number in self._progress.items())
            log.info("garbage collection goes on; examined so far: %s", examined)


def _sum(first: FileTotals, second: FileTotals) -> FileTotals:
    return FileTotals(files=first.files + second.files, size=first.size + second.size)
