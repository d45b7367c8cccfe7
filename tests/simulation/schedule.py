"""One schedule: a seed decides what happens next, step by step; then the faults end, and all must come to an end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import func, select

from api.receiving import missing
from api.sweep import sweep_once
from enginefarm.errors import EnginefarmError
from enginefarm.recall import Recall
from models.blobs import mended, require_stored
from models.importing import publish_import
from models.publication import read_manifest
from models.recall import recall
from models.repair import damaged_files, take_out
from models.rows import BuildRow, EngineRow
from models.staff import drain, release
from models.submission import Request, cancel, submit
from tests.models.arriving import arriving
from tests.models.requests import request
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.invariants import Broken, Invariants
from tests.simulation.parts import Broker, MemoryStore
from tests.simulation.worker import MAX_TRIES, Parts, Worker

Move = Callable[[], str | None]  # what was done; None if there was nothing to do
STEPS = 40
_ROUNDS = 100  # of the sweep, five seconds apart: more than any retry and lease takes
_FAULTS = 0.06
_WORKERS = (("w1", 8, 1.0), ("w2", 8, 0.25), ("w3", 32, 4.0))  # name, GiB, how fast its clock runs


@dataclass(frozen=True)
class Result:
    steps: int
    attempts: int
    published: int


class Simulation:
    """Runs schedules one after another on one database."""

    def __init__(self, scratch: Path) -> None:
        self._clock = Clock()
        self._database = FaultyDatabase(self._clock)
        self._scratch = scratch

    def run(self, seed: int, *, steps: int = STEPS, tell: Callable[[str], None] = lambda _: None) -> Result:
        """Raises Broken."""
        return self.schedule(seed, tell).run(steps)

    def schedule(self, seed: int, tell: Callable[[str], None] = lambda _: None) -> Schedule:
        """At its beginning: an empty catalogue, and no worker started."""
        self._database.faults = 0
        self._database.empty()
        self._clock.reset()
        chance = random.Random(seed)
        parts = Parts(chance, self._clock, self._database, Broker(), MemoryStore(), self._scratch)
        for part in (parts.database, parts.broker, parts.store):
            part.random = chance
        return Schedule(parts, tell)


class Schedule:
    def __init__(self, parts: Parts, tell: Callable[[str], None]) -> None:
        self.parts = parts
        self.tell = tell
        self.workers = [Worker(parts, *made) for made in _WORKERS]
        self.invariants = Invariants(parts.database, parts.store)
        settings = SimpleNamespace(worker_seconds=30.0, max_tries=MAX_TRIES)
        self.control: Any = SimpleNamespace(
            settings=settings, database=parts.database, announcer=parts.broker, store=parts.store
        )
        self._moves: dict[Move, float] = {
            self.submit: 5, self.cancel: 2, self.deliver: 12, self.work: 30, self.beat: 6, self.pass_time: 6,
            self.sweep: 6, self.crash: 3, self.leave: 1, self.start: 3, self.part_away: 1, self.rot: 1,
            self.repair: 1, self.bring: 0.5, self.recall: 0.5, self.drain_or_release: 1, self.lose_messages: 1,
        }  # fmt: skip

    def run(self, steps: int) -> Result:
        for worker in self.workers:
            worker.start()
        self._faults(_FAULTS)
        done = int(self._checked(self.submit))
        for _ in range(steps):
            while not self._checked(self._any_move()):
                pass  # there was nothing to do for it: another
            done += 1
        self._faults(0)
        done += self._come_to_an_end()
        with self.parts.database.read() as session:
            ask = session.connection().exec_driver_sql
            attempts, published = ask("SELECT (SELECT count(*) FROM attempts), (SELECT count(*) FROM engines)").one()
        return Result(done, attempts, published)

    def _any_move(self) -> Move:
        return self.parts.random.choices(list(self._moves), list(self._moves.values()))[0]

    def _checked(self, move: Move) -> bool:
        """Make the move; False if there was nothing to do."""
        told: str | None
        try:
            told = move()
        except EnginefarmError as error:  # a route would answer with it, a sweep would log it
            told = error.detail
        if told is None:
            return False
        self.tell(f"{self.parts.clock.time:%H:%M:%S} {move.__name__}: {told}")
        self.invariants.check()
        return True

    def _faults(self, share: float) -> None:
        parts = self.parts
        parts.database.faults = parts.broker.faults = parts.store.faults = share
        parts.stages_fail = 4 * share

    def _come_to_an_end(self) -> int:
        """I4: once nothing breaks any more, every build ends, within bounded time."""
        self.parts.broker.away = self.parts.store.away = False
        done = 0
        for _ in range(_ROUNDS):
            if not self._open_builds():
                return done
            self.parts.clock.move(5)
            done += sum(self._checked(move) for move in (self._staff, self.sweep, self._work_off))
        raise Broken(f"I4: {self._open_builds()} builds are open, {_ROUNDS} rounds after the last fault")

    def _open_builds(self) -> int:
        with self.parts.database.read() as session:
            return session.execute(select(func.count()).where(BuildRow.state == "open")).scalar_one()

    def _staff(self) -> str:
        for worker in self.workers:
            worker.leaving = False
            worker.start()
            with self.parts.database.write() as session:
                release(session, worker.name)
        return "all there"

    def _work_off(self) -> str:
        """Whoever is busy ends; then messages are taken for as long as there are any."""
        busy = 0
        for worker in [*self.workers, *self.workers]:  # the second time for what the others left to the first
            for _ in range(1 + len(self.parts.broker.messages)):
                busy += self._finish(worker)
                if (key := self.parts.broker.take(worker.queues)) is not None:
                    worker.hear(key)
            busy += self._finish(worker)
        return f"{busy} steps"

    def _finish(self, worker: Worker) -> int:
        steps = 0
        while worker.running is not None:
            worker.step()
            self.invariants.check()
            steps += 1
        return steps

    def submit(self) -> str:
        """The announcement may die with the API."""
        chance, wanted = self.parts.random, self._wanted()
        with self.parts.database.write() as session:
            accepted = submit(session, wanted)
        if chance.random() > _FAULTS:
            self.parts.broker.announce(accepted.announcements)
        return f"{wanted.build.key[:6]} {accepted.disposition}"

    def _wanted(self) -> Request:
        """Few different requests, so that many are identical."""
        chance = self.parts.random
        return request(chance.choice(["llama", "qwen"]), chance.choice(["small", "large"]))

    def cancel(self) -> str | None:
        with self.parts.database.read() as session:
            there = session.execute(select(BuildRow.id).order_by(BuildRow.seq)).scalars().all()
        if not there:
            return None
        build = self.parts.random.choice(there)
        self.invariants.cancelled.add(build)
        with self.parts.database.write() as session:
            return f"the build at {there.index(build)}: {cancel(session, build)}"

    def deliver(self) -> str | None:
        """A message, to a worker that does nothing."""
        worker = self._any(lambda worker: worker.alive and worker.running is None and not worker.leaving)
        key = self.parts.broker.take(worker.queues) if worker else None
        if worker is None or key is None:
            return None
        worker.hear(key)
        return f"{worker.name} {worker.step()}"

    def work(self) -> str | None:
        worker = self._any(lambda worker: worker.running is not None)
        return f"{worker.name} {worker.step()}" if worker else None

    def beat(self) -> str | None:
        worker = self._any(lambda worker: worker.held is not None)
        return f"{worker.name} {worker.beat()}" if worker else None

    def pass_time(self) -> str:
        """Sometimes longer than a lease."""
        self.parts.clock.move(seconds := self.parts.random.choice([1, 3, 10, 25]))
        return f"{seconds} s"

    def sweep(self) -> str:
        return f"{sweep_once(self.control)} announced"

    def crash(self) -> str | None:
        worker = self._any(lambda worker: worker.alive)
        if worker is None:
            return None
        worker.crash()
        return worker.name

    def leave(self) -> str | None:
        """SIGTERM: what runs is handed back at the next step."""
        worker = self._any(lambda worker: worker.alive)
        if worker is None:
            return None
        worker.leaving = True
        return worker.name

    def start(self) -> str | None:
        worker = self._any(lambda worker: worker.running is None)
        if worker is None:
            return None
        worker.start()
        return worker.name

    def part_away(self) -> str:
        """The broker or the store goes, or comes back."""
        part = self.parts.random.choice([self.parts.broker, self.parts.store])
        part.away = not part.away
        return f"{type(part).__name__} {'away' if part.away else 'back'}"

    def lose_messages(self) -> str:
        """The broker is emptied."""
        lost, self.parts.broker.messages = len(self.parts.broker.messages), []
        return f"{lost} lost"

    def rot(self) -> str | None:
        whole = [digest for digest in self.parts.store.blobs if self.parts.store.intact(digest)]
        if not whole:
            return None
        self.parts.store.rot(digest := self.parts.random.choice(whole))
        return digest

    def repair(self) -> str | None:
        """As the route does: read everything that is served, outside of any transaction; then take out."""
        with self.parts.database.read() as session:
            manifests = session.execute(select(EngineRow.manifest).order_by(EngineRow.key)).scalars().all()
            files = [entry for manifest in manifests for entry in read_manifest(session, manifest).files]
        damaged = sorted({entry.digest for entry in damaged_files(self.parts.store, files)})
        if not damaged:
            return None
        with self.parts.database.write() as session:
            taken, announcements = take_out(session, damaged)
        self.parts.broker.announce(announcements)
        return f"{len(taken.engines)} engines, {len(taken.checkpoints)} checkpoints taken out"

    def bring(self) -> str:
        """From another farm, as the client and the route do it: bytes first, then one transaction."""
        came = arriving(self._wanted())
        for digest in missing(self.control, came.record.sizes):
            self.parts.store.put_stream(iter([b"engine"]), digest, came.record.sizes[digest])
            with self.parts.database.write() as session:
                mended(session, [digest])
        with self.parts.database.write() as session:
            published = publish_import(session, came, imported_by=None)
            require_stored(self.parts.store, came.record.sizes)
        return f"{came.record.key[:6]} {'imported' if published else 'was there'}"

    def recall(self) -> str:
        name = self.parts.random.choice(self.workers).name
        with self.parts.database.write() as session:
            taken, announcements = recall(session, Recall(worker=name, reason="simulated"))
        self.parts.broker.announce(announcements)
        return f"{name}: {len(taken.engines)} engines, {len(taken.checkpoints)} checkpoints"

    def drain_or_release(self) -> str:
        name = self.parts.random.choice(self.workers).name
        decide = self.parts.random.choice([drain, release])
        with self.parts.database.write() as session:
            decide(session, name)
        return f"{decide.__name__} {name}"

    def _any(self, which: Callable[[Worker], bool]) -> Worker | None:
        fitting = [worker for worker in self.workers if which(worker)]
        return self.parts.random.choice(fitting) if fitting else None
