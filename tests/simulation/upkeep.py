"""Operations beside building: garbage collection, imports, repairs, recalls, pins, pulls, and damaged blobs.

An operation of several transactions runs step by step: between two steps any other move may happen, and it may die.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from greenlet import getcurrent, greenlet
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.engines.pulls import note_pull
from api.engines.uploads import missing
from api.upkeep.garbage_collection import clean_up
from enginefarm.wire.recall import Recall
from enginefarm.wire.retention import CleanUpRequest, Policy
from models.catalogue.database import Database
from models.catalogue.rows import EngineRow
from models.catalogue.visibility import SERVED
from models.fleet.worker_control import drain, release
from models.incidents.recall import recall
from models.incidents.repair import damaged_files, withdraw_damaged
from models.lifecycle.blobs import mark_rewritten, require_stored
from models.lifecycle.imports import publish_import
from models.lifecycle.publication import read_manifest
from models.lifecycle.submission import Request
from models.queries.engines import get_engine
from models.retention.pins import set_pin
from tests.models.imported_records import imported_record
from tests.simulation.invariants import Invariants
from tests.simulation.worker import World

_AT_ONCE = 3
_POLICIES = [
    None, (Policy(keep_last=0),), (Policy(keep_last=1),), (Policy(keep_days=0.0003),), (Policy(keep_pulled_days=0),)
]  # fmt: skip


class Upkeep:
    def __init__(self, world: World, control: Any, invariants: Invariants, wanted: Callable[[], Request]) -> None:
        self.world = world
        self.control = control
        self.invariants = invariants
        self._wanted = wanted
        self.under_way: list[Iterator[str]] = []

    def go_on(self, but: Collection[Iterator[str]] = ()) -> str | None:
        """Let one running operation, not one of `but`, make its next step."""
        tasks = [task for task in self.under_way if task not in but]
        if not tasks:
            return None
        task = self.world.random.choice(tasks)
        try:
            return next(task)
        except BaseException as error:  # an error ends the operation too
            self.under_way.remove(task)
            if isinstance(error, StopIteration):
                return "ended"
            raise

    def die(self) -> str | None:
        """Kill the control plane, with all operations that it runs."""
        killed = len(self.under_way)
        self.under_way = []
        return f"{killed} under way" if killed else None

    def clean_up(self) -> str | None:
        policies = self.world.random.choice(_POLICIES)
        # Small batches: between two of them any other move may happen.
        batch = self.world.random.choice([1, 2, 500])
        return self._begin(in_steps(self.control, CleanUpRequest(policies=policies), batch=batch))

    def repair(self) -> str | None:
        return self._begin(self._repair())

    def bring(self) -> str | None:
        return self._begin(self._bring(self._wanted()))

    def _begin(self, task: Iterator[str]) -> str | None:
        if len(self.under_way) == _AT_ONCE:
            return None
        self.under_way.append(task)
        return "begun"

    def _repair(self) -> Iterator[str]:
        """As the route does: read every served file outside a transaction, then withdraw the damaged engines."""
        with self.world.database.read() as session:
            manifests = session.execute(select(EngineRow.manifest).order_by(EngineRow.key)).scalars().all()
            files = [entry for manifest in manifests for entry in read_manifest(session, manifest).files]
        damaged = sorted({entry.digest for entry in damaged_files(self.world.store, files)})
        if damaged:
            yield f"{len(damaged)} blobs are damaged"
            with self.world.database.write() as session:
                withdrawn, announcements = withdraw_damaged(session, damaged)
            self.world.broker.announce(announcements)
            yield f"{len(withdrawn.engines)} engines, {len(withdrawn.checkpoints)} checkpoints withdrawn"

    def _bring(self, wanted: Request) -> Iterator[str]:
        """Import an engine from another farm, as client and routes do: bytes first, then one transaction."""
        came = imported_record(wanted)
        for digest in missing(self.control, came.record.sizes):
            yield f"{digest} is missing"
            size = came.record.sizes[digest]
            if missing(self.control, {digest: size}):
                self.world.store.put_stream(iter([b"engine"]), digest, size)
            with self.world.database.write() as session:
                mark_rewritten(session, [digest])
        yield "every blob is uploaded"
        with self.world.database.write() as session:
            published = publish_import(session, came, imported_by=None)
            require_stored(self.world.store, came.record.sizes)
        yield f"{came.record.key[:6]} {'imported' if published else 'existed'}"

    def rot(self) -> str | None:
        intact = [digest for digest in self.world.store.blobs if self.world.store.intact(digest)]
        if not intact:
            return None
        digest = self.world.random.choice(intact)
        self.world.store.rot(digest)
        return digest

    def recall(self) -> str:
        name = self.world.random.choice(["w1", "w2", "w3"])
        with self.world.database.write() as session:
            withdrawn, announcements = recall(session, Recall(worker=name, reason="simulated"))
        self.world.broker.announce(announcements)
        return f"{name}: {len(withdrawn.engines)} engines, {len(withdrawn.checkpoints)} checkpoints"

    def drain_or_release(self) -> str:
        name = self.world.random.choice(["w1", "w2", "w3"])
        decide = self.world.random.choice([drain, release])
        with self.world.database.write() as session:
            decide(session, name)
        return f"{decide.__name__} {name}"

    def pin(self) -> str | None:
        """Pin or unpin an engine. If the database fails, nobody knows whether it is pinned, so no check expects it."""
        engine = self._any_engine()
        if engine is None:
            return None
        pinned = self.world.random.random() < 0.5
        self.invariants.pinned.discard(engine.key)
        with self.world.database.write() as session:
            set_pin(session, engine.key, pinned=pinned)
            get_engine(session, engine.key)  # as the route does: it raises if the engine is not served
        if pinned:
            self.invariants.pinned.add(engine.key)
        return f"{engine.key[:6]} {'pinned' if pinned else 'unpinned'}"

    def pull(self) -> str | None:
        """Give out links to all files of an engine; each stays valid for a while, whatever happens to the engine."""
        engine = self._any_engine()
        if engine is None:
            return None
        with self.world.database.read() as session:
            files = read_manifest(session, engine.manifest).files
        note_pull(self.control, [engine.key])
        self.invariants.link({entry.digest for entry in files}, seconds=self.control.settings.link_seconds)
        return engine.key[:6]

    def _any_engine(self) -> EngineRow | None:
        with self.world.database.read() as session:
            engines = session.execute(select(EngineRow).where(SERVED).order_by(EngineRow.key)).scalars().all()
        return self.world.random.choice(engines) if engines else None


def in_steps(control: Any, wanted: CleanUpRequest, *, batch: int = 500) -> Iterator[str]:
    """Run the farm's garbage collection, stopping before each of its transactions."""
    stopping = type(control)(**{**vars(control), "database": _Stopping(control.database)})
    running = greenlet(clean_up)
    done = running.switch(stopping, wanted, by=None, batch=batch)
    while not running.dead:
        yield "cleaned on"
        done = running.switch()
    yield f"cleaned up: {sum(found.removed for found in done.going)} removed, {done.deleted.files} blobs deleted"


class _Stopping:
    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def read(self) -> Iterator[Session]:
        _stop()
        with self._database.read() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        _stop()
        with self._database.write() as session:
            yield session


def _stop() -> None:
    """Switch back to the schedule. If the schedule never switches here again, the collection was killed."""
    schedule = getcurrent().parent
    assert schedule is not None
    schedule.switch()
