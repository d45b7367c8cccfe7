"""A simulated worker that advances in steps: between any two it can crash, pause, or lose a lease.

The steps are those of workers.runner and workers.stage, in their order, on the same functions of the catalogue;
only the stage itself and the threads are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.errors import DatabaseUnavailable, EnginefarmError, IntegrityError, NotFound, StoreUnavailable
from enginefarm.contract.host import Fingerprint
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import OUT_OF_MEMORY, Capability, Failure, Fault
from models.catalogue.states import Fenced
from models.fleet.registration import register
from models.fleet.worker_control import quarantine_if_sick
from models.incidents.repair import withdraw_damaged_checkpoint
from models.lifecycle.blobs import NotStored, damaged_blobs, require_stored
from models.lifecycle.leases import (
    Claim,
    claim_next,
    fail_attempt,
    hand_back,
    left_in_queue,
    renew,
    was_published,
)
from models.lifecycle.publication import blob_sizes, publish_checkpoint, publish_engine, read_manifest
from models.lifecycle.transitions import record_log
from models.queue.names import Announcement, queues_by_memory
from models.queue.order import MOST_HELD
from models.queue.prefetches import reserve_next
from tests.models.requests import CPU, ENGINE, HOST
from tests.models.store.blobs import put_bytes
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.doubles import Broker, MemoryStore
from workers.reporting.failures import StageFailed, StageStopped, StartDamaged, explain
from workers.warm_start import WarmStart

LEASE_SECONDS = 16.0
MAX_TRIES = 3
_RESERVED_SECONDS = 30.0
_QUARANTINE_AFTER = 3
_GRACE_OVER = 0.3  # the share of checks that find the grace of an attempt over, whose worker is leaving
_CONFIG = b'{"shared": "by every engine"}'
_CAPABILITIES = [Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT, Stage.BUILD])]
_FAILURES = {
    "broke": Failure(cause="broke", fault=Fault.WORKER, detail="simulated", retryable=True),
    "refused": Failure(cause="refused", fault=Fault.CALLER, detail="simulated"),
    "memory": Failure(cause=OUT_OF_MEMORY, fault=Fault.WORKER, detail="simulated"),
}


@dataclass
class World:
    """The clock, servers and randomness that the workers, the control planes and the schedule share."""

    random: random.Random
    clock: Clock
    database: FaultyDatabase
    broker: Broker
    store: MemoryStore
    scratch: Path
    stages_fail: float = 0.0  # the share of stages that fail


@dataclass
class Worker:
    world: World
    name: str
    memory_gib: int
    skew: float  # the speed of its own clock: 1.0 is right
    attempts: list[Attempt] = field(default_factory=list)  # one that computes, and one that finishes
    held: list[str] = field(default_factory=list)  # inputs in its cache, which stay after a crash
    is_leaving: bool = False
    alive: bool = True

    @property
    def queues(self) -> list[str]:
        return ["convert.q", *queues_by_memory("build.q", self.memory_gib)]

    @property
    def is_free(self) -> bool:
        """True if it takes a message: an attempt that finishes has passed its turn on."""
        return not any(attempt.has_turn for attempt in self.attempts)

    def report(self) -> None:
        """Register it, as a real worker does again and again to show that it lives."""
        host = HOST.model_copy(update={"memory_gib": self.memory_gib})
        with self.world.database.write() as session:
            register(session, self.name, self.name, Fingerprint(platform=CPU, host=host), _CAPABILITIES, self.queues)

    def crash(self) -> None:
        """Stop everything it does. Its row and its leases stay as they are, as after kill -9."""
        self.attempts, self.alive = [], False

    def start(self) -> None:
        self.alive, self.is_leaving = True, False
        self.report()

    def hold(self, inputs: str | None) -> None:
        """Remember that the cache has these inputs now, the most recently used first."""
        if inputs is not None:
            self.held = [inputs, *(other for other in self.held if other != inputs)][:MOST_HELD]

    def receive(self, queue: str) -> Attempt:
        """Begin to work on an action of the queue that a message came from."""
        attempt = Attempt(self, queue)
        self.attempts.append(attempt)
        return attempt


class Attempt:
    """What a worker does about one message. It ends by itself, or with the worker's crash."""

    def __init__(self, worker: Worker, queue: str) -> None:
        self.worker = worker
        self.world = worker.world
        self.claim: Claim | None = None
        self.has_turn = True
        self.programs_ended = False
        self.is_stopped = False
        self.steps: Iterator[str] | None = self._work(queue)
        self._renewed = 0.0

    def step(self) -> str:
        """Advance to the next point at which a crash makes a difference; returns what happened, "idle" at the end."""
        assert self.steps is not None
        try:
            return next(self.steps)
        except StopIteration:
            self.steps, self.claim = None, None
            self.worker.attempts.remove(self)
            for other in self.worker.attempts:
                other.has_turn = other.has_turn and not other.programs_ended
            return "idle"

    def beat(self) -> str:
        """Renew the lease once, as the heartbeat's thread does. Only giving up depends on the worker's own clock."""
        assert self.claim is not None
        try:
            with self.world.database.write() as session:
                renew(session, self.claim, lease_seconds=LEASE_SECONDS, progress=0.5)
            self._renewed = self._own_time()
        except Fenced:
            self.is_stopped = True
            return "lost"
        except DatabaseUnavailable:
            self.is_stopped = self.is_stopped or self._own_time() - self._renewed > 0.6 * LEASE_SECONDS
            return "unanswered"
        return "renewed"

    def _own_time(self) -> float:
        return self.world.clock.time.timestamp() * self.worker.skew

    def _pass_on(self) -> None:
        """Let the worker take its next message: at once, or when the attempt that is finishing has ended."""
        self.programs_ended = True
        if self.worker.attempts == [self]:
            self.has_turn = False

    def _work(self, queue: str) -> Iterator[str]:
        try:
            with self.world.database.write() as session:
                claim = claim_next(session, queue, self.worker.name, lease_seconds=LEASE_SECONDS, held=self.worker.held)
            if claim is None:
                self._announce_to_others(queue)
                return
        except DatabaseUnavailable:
            # The message is lost, and the claim may be committed without the worker's knowledge. The sweep announces
            # the action again in the first case and takes the lease back in the second.
            return
        self.claim, self._renewed = claim, self._own_time()
        yield f"claimed {claim.stage} {claim.key[:6]} attempt {claim.attempt}"
        try:
            yield from self._stage(claim)
        except Fenced:
            yield from self._after_fence(claim)
        except StageStopped:
            if self.worker.is_leaving:
                yield from self._write_end(lambda: self._hand_back(claim))
            yield from self._save_log(claim)
        except Exception as error:
            yield from self._fail(claim, error)

    def _announce_to_others(self, queue: str) -> None:
        with self.world.database.read() as session:
            left = left_in_queue(session, queue, self.worker.name)
        if left is not None:
            self.world.broker.announce([left.announcement])

    def _stage(self, claim: Claim) -> Iterator[str]:
        self._fetch(claim.checkpoint)
        self.worker.hold(claim.inputs)
        yield "fetched"
        yield from self._fetch_ahead(claim.queue)
        self._check()
        if self.world.random.random() < self.world.stages_fail:
            raise StageFailed(self.world.random.choice(list(_FAILURES.values())))
        self._pass_on()
        yield "ran"
        # Every other attempt makes the same bytes, so that an upload meets blobs of an earlier attempt in the store.
        files = {"config.json": _CONFIG, "output": f"{claim.key}, version {claim.attempt % 2}".encode()}
        manifest = Manifest.of(FileEntry(path=p, digest=of_bytes(d), size=len(d)) for p, d in files.items())
        rewritten = yield from self._upload(files, manifest)
        warm_start = self._warm_file(claim)
        warm_start.upload()
        yield "uploaded its warm file"
        yield from self._publish_stored(claim, files, manifest, rewritten)
        warm_start.record(claim, seconds=1.0)
        yield "recorded its warm file"

    def _warm_file(self, claim: Claim) -> WarmStart:
        """Each queue has one warm file, of its last successful run. Its bytes change from attempt to attempt."""
        source = self._file(f"{claim.queue}, version {claim.attempt % 2}".encode())
        return WarmStart(self.world.database, self.world.store, source, {"queue": claim.queue})

    def _upload(self, files: dict[str, bytes], manifest: Manifest) -> Generator[str, None, frozenset[str]]:
        """Returns the digests that the catalogue lists as damaged; their bytes are uploaded again."""
        with self.world.database.read() as session:
            damaged = frozenset(damaged_blobs(session, blob_sizes(manifest)))
        for entry in manifest.files:
            self._check()
            source = self._file(files[entry.path])
            self.world.store.put(source, entry.digest, entry.size, anew=entry.digest in damaged)
            yield f"uploaded {entry.path}"
        return damaged

    def _file(self, data: bytes) -> Path:
        # Kept by digest, because schedules write the same few files again and again.
        path = self.world.scratch / of_bytes(data)
        if not path.exists():
            path.write_bytes(data)
        return path

    def _fetch(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with self.world.database.read() as session:
            manifest = read_manifest(session, checkpoint)
        for entry in manifest.files:
            try:
                self.world.store.verify(entry.digest, entry.size)
            except (NotFound, IntegrityError) as error:
                raise StartDamaged(entry.digest, error) from error

    def _fetch_ahead(self, queue: str) -> Iterator[str]:
        """Reserve the next action softly and fetch its inputs, as the thread of workers.inputs.prefetch does."""
        with suppress(EnginefarmError, StartDamaged):
            with self.world.database.write() as session:
                action = reserve_next(
                    session, queue, self.worker.name, held=self.worker.held, seconds=_RESERVED_SECONDS
                )
            if action is None:
                return
            yield f"reserved {action.key[:6]}"
            self._fetch(action.checkpoint)
            self.worker.hold(action.inputs)
            yield "fetched ahead"

    def _check(self) -> None:
        if self.is_stopped:
            raise StageStopped
        # An attempt that finishes has a grace, which may be over.
        if self.worker.is_leaving and (self.has_turn or self.world.random.random() < _GRACE_OVER):
            raise StageStopped

    def _publish_stored(
        self, claim: Claim, files: dict[str, bytes], manifest: Manifest, rewritten: frozenset[str]
    ) -> Iterator[str]:
        """Publish. A blob that the store had already may be collected before the commit: then it is uploaded again."""
        while True:
            log = self._upload_log(claim)
            yield "uploaded its log"
            try:
                yield from self._write_until_answered(partial(self._publish, claim, manifest, rewritten, log))
                return
            except NotStored as error:
                yield error.detail
                rewritten |= yield from self._upload(files, manifest)

    def _upload_log(self, claim: Claim) -> tuple[str, int]:
        log = f"log of {claim.key}, attempt {claim.attempt}".encode()
        return put_bytes(self.world.store, log), len(log)

    def _publish(
        self, claim: Claim, manifest: Manifest, rewritten: frozenset[str], log: tuple[str, int]
    ) -> list[Announcement]:
        announcements: list[Announcement] = []
        with self.world.database.write() as session:
            if claim.stage == Stage.CONVERT:
                announcements = publish_checkpoint(session, claim, manifest, facts={}, steps={}, rewritten=rewritten)
            else:
                publish_engine(session, claim, manifest, engine=ENGINE, steps={}, rewritten=rewritten)
            record_log(session, claim.key, claim.attempt, log)
            require_stored(self.world.store, blob_sizes(manifest) | dict([log]))
        return announcements

    def _after_fence(self, claim: Claim) -> Iterator[str]:
        with self.world.database.read() as session:
            published = was_published(session, claim)
        # A commit whose answer was lost has published: the second try finds its own attempt ended, and is fenced.
        yield "already published" if published else "fenced"
        if not published:
            yield from self._save_log(claim)

    def _hand_back(self, claim: Claim) -> list[Announcement]:
        with self.world.database.write() as session:
            return [hand_back(session, claim)]

    def _fail(self, claim: Claim, error: Exception) -> Iterator[str]:
        failure = explain(error)
        assert failure.cause != "internal", repr(error)
        yield from self._save_log(claim)
        yield from self._write_end(lambda: self._record_failure(claim, error, failure))

    def _save_log(self, claim: Claim) -> Iterator[str]:
        try:
            log = self._upload_log(claim)
            yield "uploaded its log"
            with self.world.database.write() as session:
                record_log(session, claim.key, claim.attempt, log)
                require_stored(self.world.store, dict([log]))
        except EnginefarmError as error:
            yield f"its log is not kept: {error.detail}"

    def _write_end(self, write: Callable[[], list[Announcement]]) -> Iterator[str]:
        try:
            yield from self._write_until_answered(write)
        except Fenced:
            yield "its end is fenced, or recorded already"
        except DatabaseUnavailable:
            yield "its end is not recorded"

    def _record_failure(self, claim: Claim, error: Exception, failure: Failure) -> list[Announcement]:
        announcements: list[Announcement] = []
        with self.world.database.write() as session:
            if isinstance(error, StartDamaged):
                announcements = withdraw_damaged_checkpoint(
                    session, claim, error.digest, failure, max_tries=MAX_TRIES, steps={}
                )
            else:
                fail_attempt(session, claim, failure, max_tries=MAX_TRIES, steps={})
            quarantine_if_sick(session, self.worker.name, after=_QUARANTINE_AFTER)
        return announcements

    def _write_until_answered(self, write: Callable[[], list[Announcement]]) -> Iterator[str]:
        """Repeat `write` until its transaction is answered, then announce; a crash between the two loses messages."""
        while True:
            try:
                announcements = write()
                break
            except (DatabaseUnavailable, StoreUnavailable):
                if self.is_stopped:
                    raise
                yield "wrote without an answer"
        yield "committed"
        self.world.broker.announce(announcements)
