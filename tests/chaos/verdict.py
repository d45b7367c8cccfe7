"""What is asked of the catalogue and of the bucket when the fire is out."""

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
from models.opening import open_store
from models.retention import blob_gc as garbage
from models.settings import Settings
from models.store import Store
from tests.chaos.farm import Farm, Loss
from tests.chaos.load import Book
from tests.promises import broken

_COLLECTIONS = 2
_GRACE_SECONDS = 11.0  # a little more than what the farm gives to what nothing refers to


@dataclass
class Verdict:
    lost: list[str] = field(default_factory=list)  # accepted builds that did not end as they must (I4, I6)
    twice: list[str] = field(default_factory=list)  # actions that were published more than once (I1, I3)
    unverified: list[str] = field(default_factory=list)  # names over bytes that are not theirs (I2, I5)
    orphans: list[str] = field(default_factory=list)  # bytes without a name, after collection
    broken: list[str] = field(default_factory=list)  # of the promises as questions to the catalogue, and all else
    engines: int = 0
    checkpoints: int = 0
    attempts: dict[str, int] = field(default_factory=dict)  # by outcome

    @property
    def finds(self) -> list[str]:
        return [*self.lost, *self.twice, *self.unverified, *self.orphans, *self.broken]


def judge(farm: Farm, book: Book) -> Verdict:
    """When every build has ended, and nothing is asked of the farm any more."""
    store = open_store(Settings.from_environment(farm.base.environment), link_secret=b"s" * 32)
    by_outcome = select(AttemptRow.outcome, func.count().label("attempts")).group_by(AttemptRow.outcome)
    _collect(farm)
    with farm.base.database.snapshot() as session:
        return Verdict(
            lost=list(_lost(session, book)),
            twice=list(_twice(session)),
            unverified=list(_unverified(session, store)),
            orphans=list(_orphans(session, store)),
            broken=[*broken(session), *book.wrong, *_deaths(farm), *_left_running(farm), *_left_in_scratch(farm)],
            engines=_count(session, EngineRow),
            checkpoints=_count(session, CheckpointRow),
            attempts={row.outcome: row.attempts for row in session.execute(by_outcome)},
        )


def open_builds(farm: Farm) -> int:
    with farm.base.database.read() as session:
        return session.execute(select(func.count()).where(BuildRow.state == BuildRowState.OPEN)).scalar_one()


def recoveries(farm: Farm) -> list[tuple[Loss, float]]:
    """Of each lost attempt, the seconds until its action was leased again, by the database's clock. Not of those that
    had ended in the moment of the loss, nor of those that nobody wanted any more."""
    found = []
    with farm.base.database.read() as session:
        for loss in farm.losses:
            lost = session.get_one(AttemptRow, (loss.held.key, loss.held.attempt))
            again = session.get(AttemptRow, (loss.held.key, loss.held.attempt + 1))
            if lost.outcome == Outcome.LOST and again is not None:
                found.append((loss, (again.started_at - loss.at).total_seconds()))
    return found


def percentiles(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{len(seconds)} measured"
    at = quantiles(seconds, n=100, method="inclusive")
    return f"p50 {at[49]:.1f} s, p95 {at[94]:.1f} s, p99 {at[98]:.1f} s, longest {max(seconds):.1f} s of {len(seconds)}"


def _count(session: Session, rows: type[Row]) -> int:
    return session.execute(select(func.count()).select_from(rows)).scalar_one()


def _collect(farm: Farm) -> None:
    """What nothing refers to is marked first and goes a grace later."""
    for number in range(_COLLECTIONS):
        if number:
            time.sleep(_GRACE_SECONDS)
        httpx.post(f"{farm.urls[0]}/v1/gc", json={}, timeout=300).raise_for_status()


def _lost(session: Session, book: Book) -> Iterator[str]:
    """An accepted build succeeds, unless it was made to fail or its caller cancelled it."""
    states = {row.id: row for row in session.execute(select(BuildRow)).scalars()}
    for build, made_to_fail in book.accepted.items():
        if (row := states.get(build)) is None:
            yield f"build {build} was accepted and is not in the catalogue"
            continue
        allowed = {BuildRowState.FAILED if made_to_fail else BuildRowState.SUCCEEDED}
        allowed |= {BuildRowState.CANCELLED} if build in book.cancelled else set()
        if row.state not in allowed:
            yield f"build {build} of {row.key[:12]} is {row.state}, not {' or '.join(sorted(allowed))}: {row.failure}"
    yield from (f"build {row.id} never ended" for row in states.values() if row.state == BuildRowState.OPEN)


def _twice(session: Session) -> Iterator[str]:
    """Nothing was taken out in this farm, so that nothing had to be made again."""
    counted = (
        select(AttemptRow.action_key, func.count())
        .where(AttemptRow.outcome == Outcome.SUCCEEDED)
        .group_by(AttemptRow.action_key)
        .having(func.count() > 1)
    )
    for key, count in session.execute(counted):
        yield f"action {key[:12]} succeeded {count} times"


def _unverified(session: Session, store: Store) -> Iterator[str]:
    """Every byte of everything that is served, and of every log that has a name."""
    files = select(BlobRow.digest, BlobRow.size).join(ManifestFileRow, ManifestFileRow.blob == BlobRow.digest)
    for served in (EngineRow, CheckpointRow):
        files_of = files.join(served, served.manifest == ManifestFileRow.manifest).where(
            served.quarantined_at.is_(None)
        )
        yield from _damaged(store, {(row.digest, row.size) for row in session.execute(files_of)})
    logs = select(AttemptRow.log_digest, AttemptRow.log_size).where(AttemptRow.log_digest.is_not(None))
    yield from _damaged(store, {(row.log_digest, row.log_size) for row in session.execute(logs)})


def _damaged(store: Store, blobs: set[tuple[str, int]]) -> Iterator[str]:
    for digest, size in sorted(blobs):
        try:
            store.verify(digest, size)
        except (NotFound, IntegrityError) as error:
            yield f"named, and not in the store: {error.detail}"


def _orphans(session: Session, store: Store) -> Iterator[str]:
    found = dict(store.list())
    yield from (f"an orphan in the store: {digest}" for digest in garbage.orphans(session, found))
    unreferred = (
        garbage.total_in_grace(session, grace_seconds=0).files + garbage.total_removable(session, grace_seconds=0).files
    )
    if unreferred:
        yield f"{unreferred} blobs that nothing refers to were not collected"
    if parts := store.abort_stale(timedelta(0)):
        yield f"{parts} uploads in parts were left unfinished"


def _deaths(farm: Farm) -> Iterator[str]:
    for process in farm.processes:
        yield from process.deaths


def _left_running(farm: Farm) -> Iterator[str]:
    """Programs of toolchains, when no action runs."""
    mine = str(farm.base.state)
    for process in psutil.process_iter(["pid", "cmdline"]):
        argv = " ".join(process.info["cmdline"] or ())
        if mine in argv:
            yield f"process {process.pid} still runs: {argv[:200]}"


def _left_in_scratch(farm: Farm) -> Iterator[str]:
    for folder in farm.base.state.glob("scratch/*/*"):
        yield f"left in a worker's scratch: {folder.name}"
