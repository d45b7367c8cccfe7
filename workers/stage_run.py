"""One attempt of one action, from claim to publication. A stage is the visible list of its steps.

The lease, the log and the limits wrap the steps from outside: a step neither renews nor commits.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import Any

from pydantic import JsonValue

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError, NotFound
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.platform import DriverBinding
from enginefarm.contract.serving import FILE as SERVING_FILE
from enginefarm.contract.serving import Serving
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure, Fault
from models.catalogue.database import Database
from models.lifecycle.blobs import damaged_blobs
from models.lifecycle.leases import Claim
from models.lifecycle.publication import blob_sizes, read_manifest
from models.sources import Sources
from models.store import Store
from toolchains.registry import all_toolchains
from toolchains.toolchain import Directories, Report, Toolchain
from workers import child
from workers.child import Limits
from workers.failures import StageFailed, StartDamaged, Stopped, limit_passed
from workers.heartbeat import Heartbeat
from workers.job_log import JobLog
from workers.presence import Identity
from workers.warm_start import WarmStart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tools:
    """What every attempt of this worker uses."""

    database: Database
    store: Store
    sources: Sources
    identity: Identity
    limits: Limits
    binding: DriverBinding


@dataclass(frozen=True)
class Product:
    """What a stage made, uploaded and verified, not yet named."""

    manifest: Manifest
    facts: dict[str, Any]
    serving: Serving | None = None
    rewritten: frozenset[Digest] = frozenset()  # of its files, those that the store had damaged


@dataclass
class Peaks:
    """The most memory that a stage says it held, in bytes: what the next estimate can be measured by."""

    memory: int = 0
    gpu_memory: int = 0

    def see(self, report: Report) -> None:
        self.memory = max(self.memory, report.peak_memory or 0)
        self.gpu_memory = max(self.gpu_memory, report.peak_gpu_memory or 0)

    def summary(self) -> dict[str, int]:
        """Empty if the stage said nothing of it."""
        return {name: size for name, size in asdict(self).items() if size}


@dataclass
class Attempt:
    tools: Tools
    held: Claim
    directories: Directories
    joblog: JobLog
    heartbeat: Heartbeat
    stop: Event
    steps: dict[str, float] = field(default_factory=dict)  # seconds
    warmth: WarmStart | None = None
    peaks: Peaks = field(default_factory=Peaks)

    def run(self) -> Product:
        """Run the stage's steps in order.

        Raises:
            Stopped: `stop` was set.
            StageFailed, InvalidOutput, EnginefarmError, OSError: see workers.failures.
        """
        self._refuse_another_platform()
        with self._step("fetch"):
            self._fetch()
            self._bring_warm_file()
        with self._step(self.job.stage):
            self._run_programs()
        with self._step("check"):
            facts = self.toolchain.check_output(self.job, self.directories)
            self._say_differences(facts)
            serving = self._write_serving()
            manifest = Manifest.of_directory(self.directories.output)
        with self._step("upload"):
            rewritten = self._upload(manifest)
            if self.warmth is not None:
                self.warmth.take_out()
        return Product(manifest, dict(facts), serving, rewritten)

    def uploaded_again(self, product: Product) -> Product:
        """`product`, whose bytes are not all in the store any more, uploaded once more. Raises as `run`."""
        return replace(product, rewritten=product.rewritten | self._upload(product.manifest))

    @property
    def job(self) -> Job:
        return self.held.work.job

    @property
    def toolchain(self) -> Toolchain:
        return all_toolchains()[self.job.toolchain]

    def _refuse_another_platform(self) -> None:
        """A message in the wrong queue must never make an engine for the wrong machine."""
        if self.job.stage is Stage.BUILD:
            ours = self.tools.identity.fingerprint.platform.bound(self.toolchain.binds_to, self.tools.binding)
            if ours != self.held.document["platform"]:
                raise StageFailed(
                    Failure(
                        cause="misrouted",
                        fault=Fault.FARM,
                        detail=f"this engine is for {self.held.document['platform']}, and this worker is {ours}",
                        retryable=True,
                    )
                )

    def _fetch(self) -> None:
        """The inputs from their sources (and only here is the hub's token used), or the checkpoint from the store."""
        work = self.held.work
        inputs = {name: self.directories.scratch.parent / "inputs" / name for name in work.inputs}
        self.directories = replace(self.directories, inputs=inputs)
        for name, files in work.inputs.items():
            inputs[name].mkdir(parents=True)
            self.tools.sources.auxiliary.fetch(files, inputs[name])
        if self.job.stage is Stage.CONVERT:
            assert work.model is not None, "a convert's work has its model"
            self.tools.sources.fetch(work.model, self.directories.source)
            return
        assert self.held.checkpoint is not None, "a build is queued only when its checkpoint is published"
        with self.tools.database.read() as session:
            manifest = read_manifest(session, self.held.checkpoint)
        for entry in manifest.files:
            self._check_stop()
            target = self.directories.source / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.tools.store.fetch(entry.digest, entry.size, target)
            except (NotFound, IntegrityError) as error:
                raise StartDamaged(entry.digest, error) from error

    def _bring_warm_file(self) -> None:
        """Only the first try starts warm: should the file be to blame for a failure, the next one does without."""
        warm = self.toolchain.warm_file(self.job)
        if warm is None:
            return
        tools, scratch = self.tools, self.directories.scratch
        self.warmth = WarmStart.of(self.job.toolchain, warm, scratch, database=tools.database, store=tools.store)
        if self.held.tries == 1:
            self.warmth.bring()
        self.joblog.say("starts warm" if self.warmth.start else "starts cold")

    def _run_programs(self) -> None:
        for command in self.toolchain.plan(self.job, self.directories):
            lines = Lines(self, command.span)
            self.joblog.say("running " + " ".join(command.argv))
            ended = child.run(
                command,
                scratch=self.directories.scratch,
                limits=self.tools.limits,
                stop=self.stop,
                on_output=lines.write,
            )
            self.joblog.say(f"ended with status {ended.status}")
            self.peaks.see(Report(peak_memory=ended.peak_memory))
            if ended.stopped == child.STOPPED:
                raise Stopped
            if ended.stopped is not None:
                raise StageFailed(limit_passed(ended.stopped, self.tools.limits))
            if ended.status != 0:
                raise StageFailed(self.toolchain.classify(self.job.stage, ended))

    def _say_differences(self, facts: Mapping[str, JsonValue]) -> None:
        if differences := facts.get("differences"):
            self.joblog.say(f"the output is not all that was asked for: {json.dumps(differences)}")

    def _write_serving(self) -> Serving | None:
        """Beside the engine, so that whoever serves it can check these bytes like all others."""
        serving = self.toolchain.serving(self.job) if self.job.stage is Stage.BUILD else None
        if serving is not None:
            (self.directories.output / SERVING_FILE).write_text(serving.model_dump_json(indent=2))
        return serving

    def _upload(self, manifest: Manifest) -> frozenset[Digest]:
        with self.tools.database.read() as session:
            damaged = frozenset(damaged_blobs(session, blob_sizes(manifest)))
        for entry in manifest.files:
            self._check_stop()
            source, anew = self.directories.output / entry.path, entry.digest in damaged
            self.tools.store.put(source, entry.digest, entry.size, lambda _: self._check_stop(), anew=anew)
        return damaged

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._check_stop()
        self.heartbeat.message = {"fetch": "fetching", "check": "checking the output", "upload": "uploading"}.get(name)
        self.joblog.say(f"{name} begins")
        started = time.monotonic()
        try:
            yield
        finally:
            self.steps[name] = round(time.monotonic() - started, 3)


class Lines:
    """A program's output on its way to the log, read for progress line by line."""

    def __init__(self, attempt: Attempt, span: tuple[float, float]) -> None:
        self._attempt = attempt
        self._span = span
        self._rest = b""

    def write(self, data: bytes) -> None:
        self._attempt.joblog.write(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-4096:]  # a program may print gigabytes without a line's end
        for line in lines:
            self._read(line.decode(errors="replace"))

    def _read(self, line: str) -> None:
        report = self._attempt.toolchain.read_line(self._attempt.job.stage, line)
        if report is not None:
            self._attempt.heartbeat.report(report.within(self._span))
            self._attempt.peaks.see(report)


def upload_log(store: Store, joblog: JobLog) -> tuple[str, int]:
    """The whole log as a blob: (digest, bytes)."""
    joblog.settle()
    name, size = digest.of_file(joblog.path), joblog.path.stat().st_size
    store.put(joblog.path, name, size)
    return name, size


def engine_columns(attempt: Attempt, product: Product, started_at: str) -> dict[str, Any]:
    """The columns of an engine's row that only the worker knows."""
    job, me = attempt.job, attempt.tools.identity
    return {
        "model": job.spec.model,
        "toolchain": job.toolchain,
        "version": job.version,
        "platform": me.fingerprint.platform.model_dump(),
        "bound_to": attempt.held.document["platform"],
        "driver_binding": attempt.tools.binding,
        "spec": job.spec.model_dump(mode="json"),
        "provenance": {
            "worker": me.name,
            "host": me.fingerprint.host.model_dump(),
            "attempt": attempt.held.attempt,
            "started_at": started_at,
            "seconds": dict(attempt.steps),
            "peaks": attempt.peaks.summary(),
            "convert": attempt.held.document["convert"],
            "checkpoint": attempt.held.checkpoint,
            "facts": product.facts,
            "serving": product.serving.summary() if product.serving else None,
        },
    }
