"""What the chaos run checks in the catalogue and the bucket after the last fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import quantiles

import httpx
import psutil
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from enginefarm.contract.errors import IntegrityError, NotFound
from models.catalogue.rows import AttemptRow, BlobRow, BuildRow, CheckpointRow, EngineRow, ManifestFileRow, Row
from models.catalogue.states import BuildRowState, Outcome
from models.lifecycle.publication import read_manifest
from models.opening import open_store
from models.retention import blob_gc
from models.settings import Settings
from models.store import Store
from tests.chaos.farm import Farm, Loss
from tests.chaos.load import Book
from tests.models.collection import EVERY_KEY
from tests.promises import broken_promises

_COLLECTIONS = 2
_GRACE_SECONDS = 11.0  # a little more than the farm's grace for blobs that nothing refers to


@dataclass
class Verdict:
    lost: list[str] = field(default_factory=list)  # accepted builds that did not end as their spec says (I4, I6)
    twice: list[str] = field(default_factory=list)  # actions that were published more than once (I1, I3)
    unverified: list[str] = field(default_factory=list)  # manifests whose bytes are missing or wrong (I2, I5)
    orphans: list[str] = field(default_factory=list)  # blobs that nothing refers to, after garbage collection
    broken: list[str] = field(default_factory=list)  # answers of tests.promises, and every other finding
    engines: int = 0
    checkpoints: int = 0
    attempts: dict[str, int] = field(default_factory=dict)  # by outcome

    @property
    def finds(self) -> list[str]:
        return [*self.lost, *self.twice, *self.unverified, *self.orphans, *self.broken]


def judge(farm: Farm, book: Book) -> Verdict:
    """Check the farm, and stop its workers. Call it after every build has ended and the callers have stopped."""
    store = open_store(Settings.from_environment(farm.base.environment), link_secret=b"s" * 32)
    by_outcome = select(AttemptRow.outcome, func.count().label("attempts")).group_by(AttemptRow.outcome)
    _collect(farm)
    programs_running = list(_programs_running(farm))
    farm.stop_workers()
    with farm.base.database.snapshot() as session:
        return Verdict(
            lost=list(_lost(session, book)),
            twice=list(_twice(session)),
            unverified=[*_unverified(session, store), *_from_wrong_inputs(session)],
            orphans=list(_orphans(session, store)),
            broken=[
                *broken_promises(session),
                *book.wrong_answers,
                *_unexpected_ends(farm),
                *programs_running,
                *_left_running(farm),
                *_left_in_scratch(farm),
            ],
            engines=_count(session, EngineRow),
            checkpoints=_count(session, CheckpointRow),
            attempts={row.outcome: row.attempts for row in session.execute(by_outcome)},
        )


def open_builds(farm: Farm) -> int:
    with farm.base.database.read() as session:
        return session.execute(select(func.count()).where(BuildRow.state == BuildRowState.OPEN)).scalar_one()


def recoveries(farm: Farm) -> list[tuple[Loss, float]]:
    """Each lost attempt, and the seconds until its action was leased again, by the database's clock.

    Attempts that had already ended at the fault are left out, and those whose builds were cancelled.
    """
    recoveries_ = []
    with farm.base.database.read() as session:
        for loss in farm.losses:
            lost = session.get_one(AttemptRow, (loss.attempt.key, loss.attempt.number))
            again = session.get(AttemptRow, (loss.attempt.key, loss.attempt.number + 1))
            if lost.outcome == Outcome.LOST and again is not None:
                recoveries_.append((loss, (again.started_at - loss.lost_at).total_seconds()))
    return recoveries_


def percentiles(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{len(seconds)} measured"
    at = quantiles(seconds, n=100, method="inclusive")
    return f"p50 {at[49]:.1f} s, p95 {at[94]:.1f} s, p99 {at[98]:.1f} s, longest {max(seconds):.1f} s of {len(seconds)}"


def _count(session: Session, rows: type[Row]) -> int:
    return session.execute(select(func.count()).select_from(rows)).scalar_one()


def _collect(farm: Farm) -> None:
    """The first collection marks blobs that nothing refers to; the second, a grace later, deletes them."""
    for number in range(_COLLECTIONS):
        if number:
            time.sleep(_GRACE_SECONDS)
        httpx.post(f"{farm.urls[0]}/v1/gc", json={}, timeout=300).raise_for_status()


def _lost(session: Session, book: Book) -> Iterator[str]:
    """An accepted build succeeds, unless its spec makes it fail or its caller cancelled it."""
    states = {row.id: row for row in session.execute(select(BuildRow)).scalars()}
    for build, fails in book.accepted.items():
        if (row := states.get(build)) is None:
            yield f"build {build} was accepted and is not in the catalogue"
            continue
        allowed = {BuildRowState.FAILED if fails else BuildRowState.SUCCEEDED}
        allowed |= {BuildRowState.CANCELLED} if build in book.cancelled else set()
        if row.state not in allowed:
            yield f"build {build} of {row.key[:12]} is {row.state}, not {' or '.join(sorted(allowed))}: {row.failure}"
    yield from (f"build {row.id} never ended" for row in states.values() if row.state == BuildRowState.OPEN)


def _twice(session: Session) -> Iterator[str]:
    """No engine was withdrawn in this farm, so no action has a reason to succeed twice."""
    counted = (
        select(AttemptRow.action_key, func.count())
        .where(AttemptRow.outcome == Outcome.SUCCEEDED)
        .group_by(AttemptRow.action_key)
        .having(func.count() > 1)
    )
    for key, count in session.execute(counted):
        yield f"action {key[:12]} succeeded {count} times"


def _unverified(session: Session, store: Store) -> Iterator[str]:
    """Check every byte of every engine, checkpoint and log that the catalogue names."""
    files = select(BlobRow.digest, BlobRow.size).join(ManifestFileRow, ManifestFileRow.blob == BlobRow.digest)
    for served in (EngineRow, CheckpointRow):
        files_of = files.join(served, served.manifest == ManifestFileRow.manifest).where(
            served.quarantined_at.is_(None)
        )
        yield from _damaged(store, {(row.digest, row.size) for row in session.execute(files_of)})
    logs = select(AttemptRow.log_digest, AttemptRow.log_size).where(AttemptRow.log_digest.is_not(None))
    yield from _damaged(store, {(row.log_digest, row.log_size) for row in session.execute(logs)})


def _from_wrong_inputs(session: Session) -> Iterator[str]:
    """The toolchain of the run copies its checkpoint into the engine: other weights came from a damaged cache."""
    for engine in session.scalars(select(EngineRow)):
        try:
            checkpoint = read_manifest(session, str(engine.provenance["checkpoint"]))
        except NotFound:
            continue  # withdrawn since
        if not set(checkpoint.files) <= set(read_manifest(session, engine.manifest).files):
            yield f"engine {engine.key[:12]} was built from other bytes than its checkpoint's"


def _damaged(store: Store, blobs: set[tuple[str, int]]) -> Iterator[str]:
    for digest, size in sorted(blobs):
        try:
            store.verify(digest, size)
        except (NotFound, IntegrityError) as error:
            yield f"in the catalogue, but not in the store: {error.detail}"


def _orphans(session: Session, store: Store) -> Iterator[str]:
    stored = dict(store.list())
    for digest in blob_gc.orphans(session, stored):
        yield f"an orphan in the store: {digest}"
    unreferred = blob_gc.total_in_grace(session, EVERY_KEY, grace_seconds=0).files
    unreferred += blob_gc.total_removable(session, EVERY_KEY, grace_seconds=0).files
    if unreferred:
        yield f"{unreferred} blobs that nothing refers to were not collected"
    if parts := store.abort_stale(timedelta(0)):
        yield f"{parts} uploads in parts were left unfinished"


def _unexpected_ends(farm: Farm) -> Iterator[str]:
    for process in farm.processes:
        yield from process.unexpected_ends


def _programs_running(farm: Farm) -> Iterator[str]:
    """Find toolchain programs that run although no action does."""
    for argv in _processes(farm):
        # An idle worker has one sandbox that waits for its next attempt.
        if not argv[0].endswith("/bwrap"):
            yield f"a program still runs: {' '.join(argv)[:200]}"


def _left_running(farm: Farm) -> Iterator[str]:
    """Find programs and sandboxes that outlive the workers."""
    for argv in _processes(farm):
        yield f"still runs without workers: {' '.join(argv)[:200]}"


def _processes(farm: Farm) -> Iterator[list[str]]:
    """The arguments of the processes that have a path of the farm's state in them."""
    state = str(farm.base.state)
    for process in psutil.process_iter(["cmdline"]):
        argv = process.info["cmdline"] or []
        if any(state in argument for argument in argv):
            yield argv


def _left_in_scratch(farm: Farm) -> Iterator[str]:
    for folder in farm.base.state.glob("scratch/*/*"):
        yield f"left in a worker's scratch: {folder.name}"
