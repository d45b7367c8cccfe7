"""A worker as steps: between any two of them it can be killed, stand still, or hear that its lease is lost.

The steps are those of workers.runner and workers.stage_run, in their order, on the same functions of the catalogue;
only the stage itself and the threads are left out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
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
    claim_action,
    fail_attempt,
    hand_back,
    renew,
    reserved_for_others,
    was_published,
)
from models.lifecycle.publication import blob_sizes, publish_checkpoint, publish_engine, read_manifest
from models.lifecycle.transitions import record_log
from models.queue.names import Announcement, queues_by_memory
from tests.models.requests import CPU, ENGINE, HOST
from tests.models.store.blobs import put_bytes
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.parts import Broker, MemoryStore
from workers.failures import StageFailed, StageStopped, StartDamaged, explain
from workers.warm_start import WarmStart

LEASE_SECONDS = 16.0
MAX_TRIES = 3
_QUARANTINE_AFTER = 3
_CONFIG = b'{"shared": "by every engine"}'
_CAPABILITIES = [Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT, Stage.BUILD])]
_FAILURES = {
    "broke": Failure(cause="broke", fault=Fault.WORKER, detail="simulated", retryable=True),
    "refused": Failure(cause="refused", fault=Fault.CALLER, detail="simulated"),
    "memory": Failure(cause=OUT_OF_MEMORY, fault=Fault.WORKER, detail="simulated"),
}


@dataclass
class Parts:
    """What workers, control planes and the schedule share."""

    random: random.Random
    clock: Clock
    database: FaultyDatabase
    broker: Broker
    store: MemoryStore
    scratch: Path
    stages_fail: float = 0.0


@dataclass
class Worker:
    parts: Parts
    name: str
    memory_gib: int
    skew: float  # how fast its own clock runs
    running: Iterator[str] | None = None
    held: Claim | None = None
    stopped: bool = False
    leaving: bool = False
    alive: bool = True
    _renewed: float = field(default=0.0)

    @property
    def queues(self) -> list[str]:
        return ["convert.q", *queues_by_memory("build.q", self.memory_gib)]

    def report(self) -> None:
        """That it is there."""
        host = HOST.model_copy(update={"memory_gib": self.memory_gib})
        with self.parts.database.write() as session:
            register(session, self.name, self.name, Fingerprint(platform=CPU, host=host), _CAPABILITIES, self.queues)

    def crash(self) -> None:
        """Nothing of it goes on; its row does not know."""
        self.running, self.held, self.alive = None, None, False

    def start(self) -> None:
        self.alive, self.leaving = True, False
        self.report()

    def hear(self, key: str) -> None:
        self.running, self.stopped = self._work(key), False

    def step(self) -> str:
        """Go on to the next point at which it could be killed."""
        assert self.running is not None
        try:
            return next(self.running)
        except StopIteration:
            self.running, self.held = None, None
            return "idle"

    def beat(self) -> str:
        """The heartbeat's thread: it looks at the worker's own clock only to give up."""
        assert self.held is not None
        try:
            with self.parts.database.write() as session:
                renew(session, self.held, lease_seconds=LEASE_SECONDS, progress=0.5)
            self._renewed = self._own_time()
        except Fenced:
            self.stopped = True
            return "lost"
        except DatabaseUnavailable:
            self.stopped = self.stopped or self._own_time() - self._renewed > 0.6 * LEASE_SECONDS
            return "unanswered"
        return "renewed"

    def _own_time(self) -> float:
        return self.parts.clock.time.timestamp() * self.skew

    def _work(self, key: str) -> Iterator[str]:
        try:
            with self.parts.database.write() as session:
                held = claim_action(session, key, self.name, lease_seconds=LEASE_SECONDS)
            if held is None:
                self._leave_to_others(key)
                return
        except DatabaseUnavailable:
            return  # the message is lost, and perhaps the claim is ours unknown to us: the sweep sees to both
        self.held, self._renewed = held, self._own_time()
        yield f"claimed {held.stage} {key[:6]} attempt {held.attempt}"
        try:
            yield from self._stage(held)
        except Fenced:
            yield from self._not_published(held)
        except StageStopped:
            if self.leaving:
                yield from self._ended(lambda: self._hand_back(held))
            yield from self._save_log(held)
        except Exception as error:
            yield from self._failed(held, error)

    def _leave_to_others(self, key: str) -> None:
        with self.parts.database.read() as session:
            announcement = reserved_for_others(session, key, self.name)
        if announcement is not None:
            self.parts.broker.announce([announcement])

    def _stage(self, held: Claim) -> Iterator[str]:
        self._fetch(held)
        yield "fetched"
        self._check()
        if self.parts.random.random() < self.parts.stages_fail:
            raise StageFailed(self.parts.random.choice(list(_FAILURES.values())))
        yield "ran"
        # Every other attempt makes the same, so that one finds in the store what another left there.
        files = {"config.json": _CONFIG, "output": f"{held.key}, version {held.attempt % 2}".encode()}
        manifest = Manifest.of(FileEntry(path=p, digest=of_bytes(d), size=len(d)) for p, d in files.items())
        rewritten = yield from self._upload(files, manifest)
        warmth = self._warm_file(held)
        warmth.take_out()
        yield "uploaded its warm file"
        yield from self._published(held, files, manifest, rewritten)
        warmth.record(held, seconds=1.0)
        yield "kept its warm file"

    def _warm_file(self, held: Claim) -> WarmStart:
        """One for each queue: the last good run's."""
        source = self._file(f"{held.queue}, version {held.attempt % 2}".encode())
        return WarmStart(self.parts.database, self.parts.store, source, {"queue": held.queue})

    def _upload(self, files: dict[str, bytes], manifest: Manifest) -> Generator[str, None, frozenset[str]]:
        """Returns what was known to be damaged, and is written anew."""
        with self.parts.database.read() as session:
            damaged = frozenset(damaged_blobs(session, blob_sizes(manifest)))
        for entry in manifest.files:
            self._check()
            source = self._file(files[entry.path])
            self.parts.store.put(source, entry.digest, entry.size, anew=entry.digest in damaged)
            yield f"uploaded {entry.path}"
        return damaged

    def _file(self, data: bytes) -> Path:
        """Schedules write the same few files again and again."""
        path = self.parts.scratch / of_bytes(data)
        if not path.exists():
            path.write_bytes(data)
        return path

    def _fetch(self, held: Claim) -> None:
        if held.checkpoint is None:
            return
        with self.parts.database.read() as session:
            manifest = read_manifest(session, held.checkpoint)
        for entry in manifest.files:
            try:
                self.parts.store.verify(entry.digest, entry.size)
            except (NotFound, IntegrityError) as error:
                raise StartDamaged(entry.digest, error) from error

    def _check(self) -> None:
        if self.stopped or self.leaving:
            raise StageStopped

    def _published(
        self, held: Claim, files: dict[str, bytes], manifest: Manifest, rewritten: frozenset[str]
    ) -> Iterator[str]:
        """What was in the store already may be collected until the moment of publishing: then it is sent again."""
        while True:
            log = self._upload_log(held)
            yield "uploaded its log"
            try:
                yield from self._until_answered(partial(self._publish, held, manifest, rewritten, log))
                return
            except NotStored as error:
                yield error.detail
                rewritten |= yield from self._upload(files, manifest)

    def _upload_log(self, held: Claim) -> tuple[str, int]:
        log = f"log of {held.key}, attempt {held.attempt}".encode()
        return put_bytes(self.parts.store, log), len(log)

    def _publish(
        self, held: Claim, manifest: Manifest, rewritten: frozenset[str], log: tuple[str, int]
    ) -> list[Announcement]:
        announcements: list[Announcement] = []
        with self.parts.database.write() as session:
            if held.stage == Stage.CONVERT:
                announcements = publish_checkpoint(session, held, manifest, facts={}, steps={}, rewritten=rewritten)
            else:
                publish_engine(session, held, manifest, engine=ENGINE, steps={}, rewritten=rewritten)
            record_log(session, held.key, held.attempt, log)
            require_stored(self.parts.store, blob_sizes(manifest) | dict([log]))
        return announcements

    def _not_published(self, held: Claim) -> Iterator[str]:
        with self.parts.database.read() as session:
            published = was_published(session, held)
        yield "published, as it turned out" if published else "fenced"
        if not published:
            yield from self._save_log(held)

    def _hand_back(self, held: Claim) -> list[Announcement]:
        with self.parts.database.write() as session:
            return [hand_back(session, held)]

    def _failed(self, held: Claim, error: Exception) -> Iterator[str]:
        failure = explain(error)
        assert failure.cause != "internal", repr(error)
        yield from self._save_log(held)
        yield from self._ended(lambda: self._record(held, error, failure))

    def _save_log(self, held: Claim) -> Iterator[str]:
        try:
            log = self._upload_log(held)
            yield "uploaded its log"
            with self.parts.database.write() as session:
                record_log(session, held.key, held.attempt, log)
                require_stored(self.parts.store, dict([log]))
        except EnginefarmError as error:
            yield f"its log is not kept: {error.detail}"

    def _ended(self, write: Callable[[], list[Announcement]]) -> Iterator[str]:
        try:
            yield from self._until_answered(write)
        except Fenced:
            yield "its end does not count, or counts already"
        except DatabaseUnavailable:
            yield "its end stays unsaid"

    def _record(self, held: Claim, error: Exception, failure: Failure) -> list[Announcement]:
        announcements: list[Announcement] = []
        with self.parts.database.write() as session:
            if isinstance(error, StartDamaged):
                announcements = withdraw_damaged_checkpoint(
                    session, held, error.digest, failure, max_tries=MAX_TRIES, steps={}
                )
            else:
                fail_attempt(session, held, failure, max_tries=MAX_TRIES, steps={})
            quarantine_if_sick(session, self.name, after=_QUARANTINE_AFTER)
        return announcements

    def _until_answered(self, write: Callable[[], list[Announcement]]) -> Iterator[str]:
        """Write, again and again; then, unless it is killed between the two, announce."""
        while True:
            try:
                announcements = write()
                break
            except (DatabaseUnavailable, StoreUnavailable):
                if self.stopped:
                    raise
                yield "wrote without an answer"
        yield "committed"
        self.parts.broker.announce(announcements)
