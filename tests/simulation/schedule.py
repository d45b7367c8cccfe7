"""One schedule: chance decides what happens next, move by move; then the faults end, and all must come to an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from sqlalchemy import func, select

from api.upkeep.garbage_collection import clean_up
from api.upkeep.sweep import sweep_once
from enginefarm.contract.errors import EnginefarmError
from enginefarm.wire.retention import CleanUpRequest
from models.catalogue.rows import BuildRow
from models.fleet.worker_control import release
from models.lifecycle.submission import Request, cancel, submit
from tests.models.requests import request
from tests.simulation.clock import State
from tests.simulation.invariants import Broken, Invariants
from tests.simulation.upkeep import Upkeep
from tests.simulation.worker import LEASE_SECONDS, MAX_TRIES, Parts, Worker

Move = Callable[[], str | None]  # what was done; None if there was nothing to do
_ROUNDS = 100  # of the sweep, five seconds apart: more than any retry and lease takes
_FAULTS = 0.06
_GRACES = (0, 0, 5)  # seconds: mostly none, so that only the collector's second look protects what is in use
_COLLECTIONS = 4  # marked, removed, its bytes marked, deleted
_CLEAN_UPS = 0.3  # of a worker's steps at the end
_TASTES = (0.2, 1, 4)
_LONG = 100.0  # seconds: no link is good for so long, no grace, no checkpoint kept, no pull remembered
_LATE_STEPS = 30  # more than a stage has; with the store away, a worker tries again until its heartbeat ends it
_WORKERS = (("w1", 8, 1.0), ("w2", 8, 0.25), ("w3", 32, 4.0))  # name, GiB, how fast its clock runs


class Schedule:
    def __init__(self, parts: Parts, tell: Callable[[str], None]) -> None:
        self.parts = parts
        self.tell = tell
        self.done = 0  # moves, those that were undone among them
        self._still = set[Iterator[str]]()
        self.workers = [Worker(parts, *made) for made in _WORKERS]
        self.invariants = Invariants(parts.database, parts.store, parts.clock)
        grace = parts.random.choice(_GRACES)
        settings = SimpleNamespace(
            worker_seconds=30.0, max_tries=MAX_TRIES, retention=(), link_seconds=grace, gc_grace_seconds=grace,
            gc_checkpoint_days=0.0002,
        )  # fmt: skip
        self.control: Any = SimpleNamespace(
            settings=settings, database=parts.database, announcer=parts.broker, store=parts.store
        )
        self.upkeep = upkeep = Upkeep(parts, self.control, self.invariants, self._wanted)
        moves: dict[Move, float] = {
            self.submit: 5, self.cancel: 2, self.deliver: 12, self.work: 30, self.beat: 6, self.pass_time: 6,
            self.sweep: 6, self.crash: 3, self.leave: 1, self.start: 3, self.part_away: 1, self.lose_messages: 1,
            upkeep.rot: 1, upkeep.repair: 1, upkeep.bring: 1, upkeep.recall: 0.5, upkeep.drain_or_release: 1,
            upkeep.clean_up: 4, self.go_on: 12, upkeep.die: 0.5, upkeep.pin: 1, upkeep.pull: 1,
            self.stand_still: 2,
        }  # fmt: skip
        # What is rare in one schedule is common in another: so what is rare meets what is rare.
        self._moves = {move: weight * parts.random.choice(_TASTES) for move, weight in moves.items()}

    def begin(self) -> None:
        for worker in self.workers:
            worker.start()
        self._faults(_FAULTS)
        self._checked(self.submit)

    def move(self, name: str, *, times: int = 1) -> None:
        """Any moves; which, and what comes of them, depends on the name. Raises Broken."""
        self._name(name)
        for _ in range(times):
            while not self._checked(self._any_move()):
                pass  # there was nothing to do for it: another

    def _name(self, name: str) -> None:
        self.tell(name)
        self.parts.random.seed(name)

    def end(self, name: str) -> None:
        """There are no faults any more, and all must come to an end. Raises Broken."""
        self._name(name)
        self._faults(0)
        self._come_to_an_end()
        self._collect()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Whoever was under way at the beginning stands still: what a generator did cannot be undone."""
        parts, upkeep = self.parts, self.upkeep
        self._still = {*upkeep.under_way, *(worker.running for worker in self.workers if worker.running is not None)}
        things = (*self.workers, parts.clock, parts.broker, parts.store, upkeep, self.invariants)
        states = [State(thing) for thing in things]
        try:
            with parts.database.undone():
                yield
        finally:
            self._still = set()
            for state in states:
                state.restore()

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
        self.done += 1
        self.tell(f"{self.parts.clock.time:%H:%M:%S} {move.__name__}: {told}")
        self.invariants.check()
        return True

    def _faults(self, share: float) -> None:
        parts = self.parts
        parts.database.faults = parts.broker.faults = parts.store.faults = share
        parts.stages_fail = 4 * share

    def _come_to_an_end(self) -> None:
        """I4: once nothing breaks any more, every build ends, within bounded time."""
        self.parts.broker.away = self.parts.store.away = False
        for _ in range(_ROUNDS):
            if not self._open_builds():
                return
            self.parts.clock.move(5)
            for move in (self._staff, self.sweep, self._work_off):
                self._checked(move)
        raise Broken(f"I4: {self._open_builds()} builds are open, {_ROUNDS} rounds after the last fault")

    def _collect(self) -> None:
        """I5: once all has ended, nothing is left in the store that nothing refers to."""
        self._checked(self._work_off)
        for _ in range(_COLLECTIONS):
            self.tell(f"at the end: {clean_up(self.control, CleanUpRequest(), by=None)}")
            self.invariants.check()
            if not (left := self.invariants.left()):
                return
            self.parts.clock.move(_LONG)
        raise Broken(f"I5: left in the store, and nothing refers to it: {left}")

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
            if self.upkeep.under_way:
                self._checked(self.go_on)
            elif self.parts.random.random() < _CLEAN_UPS:
                self._checked(self.upkeep.clean_up)
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
        worker = self._any(lambda worker: worker.running is not None and worker.running not in self._still)
        return self._some(lambda: worker.step() if worker and worker.running else None)

    def beat(self) -> str | None:
        worker = self._any(lambda worker: worker.held is not None)
        return f"{worker.name} {worker.beat()}" if worker else None

    def pass_time(self) -> str:
        """Sometimes longer than a lease."""
        self.parts.clock.move(seconds := self.parts.random.choice([1, 3, 10, 10, 25, 90]))
        return f"{seconds} s"

    def go_on(self) -> str | None:
        return self._some(lambda: self.upkeep.go_on(self._still))

    def _some(self, step: Move) -> str | None:
        """A few steps at once: where a schedule does not change hands, it gets further."""
        told = []
        for _ in range(self.parts.random.choice([1, 1, 3, 15])):
            if (did := step()) is None:
                break
            told.append(did)
            self.invariants.check()
        return ", ".join(told) or None

    def sweep(self) -> str:
        return f"{sweep_once(self.control)} announced"

    def crash(self) -> str | None:
        worker = self._any(lambda worker: worker.alive)
        if worker is None:
            return None
        worker.crash()
        return worker.name

    def stand_still(self) -> str | None:
        """A worker does nothing for longer than its lease; it goes on as if nothing had been, beside its successor."""
        late = self._any(lambda worker: worker.held is not None and worker.running not in self._still)
        if late is None:
            return None
        self.parts.clock.move(LEASE_SECONDS + 1)
        for move in (self.start, self.sweep, self.deliver):
            self._checked(move)
        told = []
        for _ in range(_LATE_STEPS):
            if late.running is None:
                break
            told.append(late.step())
            self.invariants.check()
        return f"{late.name} goes on: {', '.join(told)}"

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
        part: Any = self.parts.random.choice([self.parts.broker, self.parts.store])
        part.away = not part.away
        return f"{type(part).__name__} {'away' if part.away else 'back'}"

    def lose_messages(self) -> str:
        """The broker is emptied."""
        lost, self.parts.broker.messages = len(self.parts.broker.messages), []
        return f"{lost} lost"

    def _any(self, which: Callable[[Worker], bool]) -> Worker | None:
        fitting = [worker for worker in self.workers if which(worker)]
        return self.parts.random.choice(fitting) if fitting else None
