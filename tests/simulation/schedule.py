"""One schedule: random moves of callers, workers, sweep and faults; then the faults stop and every build must end."""

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
from tests.models.requests import new_request
from tests.simulation.clock import State
from tests.simulation.invariants import Broken, Invariants
from tests.simulation.upkeep import Upkeep
from tests.simulation.worker import LEASE_SECONDS, MAX_TRIES, Attempt, Worker, World

# A move makes one thing happen. It returns a line that says what it did, or None if there was nothing to do.
Move = Callable[[], str | None]
_ROUNDS = 100  # of the sweep at the end, five seconds apart: more than all retries and leases take together
_FAULTS = 0.06  # the share of calls to database, broker and store that fail
# Seconds. Mostly none, so that only the collector's second look at a blob protects what is in use.
_GRACES = (0, 0, 5)
# An engine is marked, then removed, then its blobs are marked, then they are deleted: four garbage collections.
_COLLECTIONS = 4
_CLEAN_UPS = 0.3  # the share of a worker's steps at the end of a schedule that a garbage collection follows
_WEIGHT_FACTORS = (0.2, 1, 4)
_LONG = 100.0  # seconds: longer than every link, grace, kept checkpoint and remembered pull of the simulation
# More steps than a stage has: while the store is away, a worker repeats its upload until its heartbeat ends it.
_LATE_STEPS = 30
_WORKERS = (("w1", 8, 1.0), ("w2", 8, 0.25), ("w3", 32, 4.0))  # name, memory in GiB, speed of its clock


class Schedule:
    def __init__(self, world: World, tell: Callable[[str], None]) -> None:
        self.world = world
        self.tell = tell
        self.moves_made = 0  # moves that were undone count too
        self._frozen = set[Iterator[str]]()  # steps that must not continue inside `undone`
        self.workers = [Worker(world, *made) for made in _WORKERS]
        self.invariants = Invariants(world.database, world.store, world.clock)
        grace = world.random.choice(_GRACES)
        settings = SimpleNamespace(
            worker_seconds=30.0, max_tries=MAX_TRIES, retention=(), link_seconds=grace, gc_grace_seconds=grace,
            gc_checkpoint_days=0.0002,
        )  # fmt: skip
        self.control: Any = SimpleNamespace(
            settings=settings, database=world.database, announcer=world.broker, store=world.store
        )
        self.upkeep = upkeep = Upkeep(world, self.control, self.invariants, self._random_request)
        moves: dict[Move, float] = {
            self.submit: 5, self.cancel: 2, self.deliver: 12, self.work: 30, self.beat: 6, self.pass_time: 6,
            self.sweep: 6, self.crash: 3, self.leave: 1, self.start: 3, self.part_away: 1, self.lose_messages: 1,
            upkeep.rot: 1, upkeep.repair: 1, upkeep.bring: 1, upkeep.recall: 0.5, upkeep.drain_or_release: 1,
            upkeep.clean_up: 4, self.go_on: 12, upkeep.die: 0.5, upkeep.pin: 1, upkeep.pull: 1,
            self.stand_still: 2,
        }  # fmt: skip
        # Each schedule weighs the moves differently, so that in some schedules two rare moves are common and meet.
        self._moves = {move: weight * world.random.choice(_WEIGHT_FACTORS) for move, weight in moves.items()}

    def begin(self) -> None:
        for worker in self.workers:
            worker.start()
        self._faults(_FAULTS)
        self._checked(self.submit)

    def move(self, name: str, *, times: int = 1) -> None:
        """Make `times` random moves. They depend on `name` alone, so that a schedule can be repeated.

        Raises:
            Broken: a promise does not hold after one of them.
        """
        self._seed(name)
        for _ in range(times):
            while not self._checked(self._any_move()):
                pass  # there was nothing to do for that move: choose another

    def _seed(self, name: str) -> None:
        self.tell(name)
        self.world.random.seed(name)

    def end(self, name: str) -> None:
        """Stop all faults; then every build must end and every blob without a reference must be deleted.

        Raises:
            Broken: a promise does not hold.
        """
        self._seed(name)
        self._faults(0)
        self._come_to_an_end()
        self._collect()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo every move that is made in the block.

        What ran when the block began does not continue inside it: a generator's progress cannot be undone.
        """
        world, upkeep = self.world, self.upkeep
        attempts = self._attempts()
        self._frozen = {*upkeep.under_way, *(attempt.steps for attempt in attempts if attempt.steps is not None)}
        objects = (*self.workers, *attempts, world.clock, world.broker, world.store, upkeep, self.invariants)
        states = [State(changed) for changed in objects]
        try:
            with world.database.undone():
                yield
        finally:
            self._frozen = set()
            for state in states:
                state.restore()

    def _any_move(self) -> Move:
        return self.world.random.choices(list(self._moves), list(self._moves.values()))[0]

    def _checked(self, move: Move) -> bool:
        """Make the move and check the promises; return False if there was nothing to do."""
        line: str | None
        try:
            line = move()
        except EnginefarmError as error:  # a route would answer with it, the sweep would log it
            line = error.detail
        if line is None:
            return False
        self.moves_made += 1
        self.tell(f"{self.world.clock.time:%H:%M:%S} {move.__name__}: {line}")
        self.invariants.check()
        return True

    def _faults(self, share: float) -> None:
        world = self.world
        world.database.faults = world.broker.faults = world.store.faults = share
        world.stages_fail = 4 * share

    def _come_to_an_end(self) -> None:
        """I4: after the last fault, every build ends within bounded time."""
        self.world.broker.away = self.world.store.away = False
        for _ in range(_ROUNDS):
            if not self._open_builds():
                return
            self.world.clock.move(5)
            for move in (self._start_all_workers, self.sweep, self._work_off):
                self._checked(move)
        raise Broken(f"I4: {self._open_builds()} builds are open, {_ROUNDS} rounds after the last fault")

    def _collect(self) -> None:
        """I5: after every build has ended, garbage collection deletes every blob that nothing refers to."""
        self._checked(self._work_off)
        for _ in range(_COLLECTIONS):
            self.tell(f"at the end: {clean_up(self.control, CleanUpRequest(), by=None)}")
            self.invariants.check()
            unreferenced = self.invariants.unreferenced_blobs()
            if not unreferenced:
                return
            self.world.clock.move(_LONG)
        raise Broken(f"I5: nothing refers to these blobs, and they were not deleted: {unreferenced}")

    def _open_builds(self) -> int:
        with self.world.database.read() as session:
            return session.execute(select(func.count()).where(BuildRow.state == "open")).scalar_one()

    def _start_all_workers(self) -> str:
        for worker in self.workers:
            worker.is_leaving = False
            worker.start()
            with self.world.database.write() as session:
                release(session, worker.name)
        return "all workers started"

    def _work_off(self) -> str:
        """Let every busy worker finish; then deliver messages until there are none."""
        busy = 0
        for worker in [*self.workers, *self.workers]:  # twice: a later worker may leave an action to an earlier one
            for _ in range(1 + len(self.world.broker.messages)):
                busy += self._finish(worker)
                if (message := self.world.broker.take(worker.queues)) is not None:
                    worker.receive(message.queue)
            busy += self._finish(worker)
        return f"{busy} steps"

    def _finish(self, worker: Worker) -> int:
        steps = 0
        while worker.attempts:
            self.world.random.choice(worker.attempts).step()
            self.invariants.check()
            steps += 1
            if self.upkeep.under_way:
                self._checked(self.go_on)
            elif self.world.random.random() < _CLEAN_UPS:
                self._checked(self.upkeep.clean_up)
        return steps

    def submit(self) -> str:
        """Submit a request. Sometimes the API dies after the commit, before it announces."""
        request_ = self._random_request()
        with self.world.database.write() as session:
            accepted = submit(session, request_)
        if self.world.random.random() > _FAULTS:
            self.world.broker.announce(accepted.announcements)
        return f"{request_.build.key[:6]} {accepted.disposition}"

    def _random_request(self) -> Request:
        """One of four different requests, so that many submits are identical."""
        random = self.world.random
        return new_request(random.choice(["llama", "qwen"]), random.choice(["small", "large"]))

    def cancel(self) -> str | None:
        with self.world.database.read() as session:
            builds = session.execute(select(BuildRow.id).order_by(BuildRow.seq)).scalars().all()
        if not builds:
            return None
        build = self.world.random.choice(builds)
        self.invariants.cancelled.add(build)
        with self.world.database.write() as session:
            return f"the build at {builds.index(build)}: {cancel(session, build)}"

    def deliver(self) -> str | None:
        """Deliver a message to an idle worker."""
        worker = self._any(lambda worker: worker.alive and worker.is_free and not worker.is_leaving)
        message = self.world.broker.take(worker.queues) if worker else None
        if worker is None or message is None:
            return None
        return f"{worker.name} {worker.receive(message.queue).step()}"

    def work(self) -> str | None:
        attempt = self._any_attempt(lambda attempt: attempt.steps not in self._frozen)
        return self._several_steps(lambda: attempt.step() if attempt and attempt.steps else None)

    def beat(self) -> str | None:
        attempt = self._any_attempt(lambda attempt: attempt.claim is not None)
        return f"{attempt.worker.name} {attempt.beat()}" if attempt else None

    def pass_time(self) -> str:
        """Move the clock, sometimes past the end of a lease."""
        seconds = self.world.random.choice([1, 3, 10, 10, 25, 90])
        self.world.clock.move(seconds)
        return f"{seconds} s"

    def go_on(self) -> str | None:
        return self._several_steps(lambda: self.upkeep.go_on(self._frozen))

    def _several_steps(self, step: Move) -> str | None:
        """Make several steps of one actor in a row, so that a schedule of limited length reaches later stages."""
        lines = []
        for _ in range(self.world.random.choice([1, 1, 3, 15])):
            line = step()
            if line is None:
                break
            lines.append(line)
            self.invariants.check()
        return ", ".join(lines) or None

    def sweep(self) -> str:
        return f"{sweep_once(self.control)} announced"

    def crash(self) -> str | None:
        worker = self._any(lambda worker: worker.alive)
        if worker is None:
            return None
        worker.crash()
        return worker.name

    def stand_still(self) -> str | None:
        """Freeze a worker past the end of its lease; then it continues while its successor works on the same action."""
        late = self._any_attempt(lambda attempt: attempt.claim is not None and attempt.steps not in self._frozen)
        if late is None:
            return None
        self.world.clock.move(LEASE_SECONDS + 1)
        for move in (self.start, self.sweep, self.deliver):
            self._checked(move)
        lines = []
        for _ in range(_LATE_STEPS):
            if late.steps is None:
                break
            lines.append(late.step())
            self.invariants.check()
        return f"{late.worker.name} goes on: {', '.join(lines)}"

    def leave(self) -> str | None:
        """Send SIGTERM to a worker: it hands its action back at the next step."""
        worker = self._any(lambda worker: worker.alive)
        if worker is None:
            return None
        worker.is_leaving = True
        return worker.name

    def start(self) -> str | None:
        worker = self._any(lambda worker: not worker.attempts)
        if worker is None:
            return None
        worker.start()
        return worker.name

    def part_away(self) -> str:
        """Take the broker or the store down, or bring it back."""
        part: Any = self.world.random.choice([self.world.broker, self.world.store])
        part.away = not part.away
        return f"{type(part).__name__} {'away' if part.away else 'back'}"

    def lose_messages(self) -> str:
        """Empty the broker."""
        lost = len(self.world.broker.messages)
        self.world.broker.messages = []
        return f"{lost} lost"

    def _attempts(self) -> list[Attempt]:
        return [attempt for worker in self.workers for attempt in worker.attempts]

    def _any_attempt(self, matches: Callable[[Attempt], bool]) -> Attempt | None:
        attempts = [attempt for attempt in self._attempts() if matches(attempt)]
        return self.world.random.choice(attempts) if attempts else None

    def _any(self, matches: Callable[[Worker], bool]) -> Worker | None:
        workers = [worker for worker in self.workers if matches(worker)]
        return self.world.random.choice(workers) if workers else None
