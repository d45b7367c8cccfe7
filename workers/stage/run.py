"""The steps of one attempt: fetch, run, check, upload. `workers.runner` calls them in this order.

The lease and the log wrap the steps from outside: a step neither renews the lease nor commits. Each step runs in the
stage's thread and calls `keep_going` for every piece that it reads or sends, so that a cancel, a lost lease, a worker
that leaves and the stage's time limit end it within a moment.

The programs are not trusted, and neither is what they leave: the output is read through `regular_files` only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from enginefarm.contract.manifest import Manifest
from enginefarm.contract.regular_files import FolderLimits, walk, write_new
from enginefarm.contract.serving import FILE as SERVING_FILE
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Fault
from models.lifecycle.blobs import damaged_blobs
from models.lifecycle.leases import Claim
from models.lifecycle.publication import blob_sizes, read_manifest
from models.store import Store
from toolchains.registry import all_toolchains
from toolchains.toolchain import Command, Directories, Report, Toolchain
from workers.inputs.node_inputs import Caller
from workers.inputs.prefetch import named_files
from workers.inputs.warm_records import WarmRecords
from workers.programs import child
from workers.programs.child import KilledFor, SandboxBroken, Unkillable
from workers.reporting.failures import (
    OutputRefused,
    StageFailed,
    StageStopped,
    limit_passed,
    out_of_time,
    without_end,
)
from workers.reporting.heartbeat import Heartbeat
from workers.reporting.job_log import JobLog
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StageView
from workers.scratch.workspace import Workspace, sizes
from workers.stage.output import StageOutput
from workers.stage.program_output import Peaks, ProgramOutput
from workers.stage.program_view import folders_of, uses_gpu
from workers.stage.refusals import runs_foreign_code
from workers.stage.tools import Tools
from workers.stage.uploads import upload_files
from workers.warm_start import WarmStart

_STEP_MESSAGES = {"fetch": "fetching", "check": "checking the output", "upload": "uploading"}


@dataclass
class StageRun:
    """The steps of one attempt, in the order of its methods, and what they measure."""

    tools: Tools
    claim: Claim
    workspace: Workspace
    joblog: JobLog
    heartbeat: Heartbeat
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    steps: dict[str, float] = field(default_factory=dict)  # seconds
    current_step: str = ""
    deadline: float = 0.0  # of all steps together, on the clock of time.monotonic
    warm_start: WarmStart | None = None
    programs_may_live: bool = False  # the kernel did not end one of them
    peaks: Peaks = field(default_factory=Peaks)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.tools.limits.wall_seconds

    @property
    def directories(self) -> Directories:
        return self.workspace.directories

    @property
    def job(self) -> Job:
        """
        Raises:
            UnreadableWork: the API is of another release.
        """
        return self.claim.work.job

    @property
    def toolchain(self) -> Toolchain:
        return all_toolchains()[self.job.toolchain]

    def view(self, command: Command) -> StageView:
        """What a program of this stage sees besides its own folders."""
        return StageView((*folders_of(self.toolchain), *command.readable), gpu=uses_gpu(self.job))

    def fetch(self) -> None:
        """Fetch the inputs, the model or the checkpoint, then the warm file.

        Only this step uses the hub's token: the toolchain's programs never see it.
        """
        checkpoint = None
        if self.job.stage is Stage.CONVERT:
            assert self.claim.work.model is not None, "a convert's work has its model"
        else:
            assert self.claim.checkpoint is not None, "a build is queued only when its checkpoint is published"
            with self.tools.database.read() as session:
                checkpoint = read_manifest(session, self.claim.checkpoint)
        caller = Caller(self.keep_going, self.joblog.say)
        fetched = self.tools.inputs.fetch(self.claim.work, checkpoint, self.workspace, caller)
        self.joblog.say(str(fetched))
        WarmRecords(self.tools.inputs.cache).remember(self.claim.inputs, named_files(self.claim.work, checkpoint))
        self.fetch_warm_file()

    def fetch_warm_file(self) -> None:
        """Prepare the toolchain's warm file, if it has one for this job."""
        warm = self.toolchain.warm_file(self.job)
        if warm is None:
            return
        tools, scratch = self.tools, self.directories.scratch
        self.warm_start = WarmStart.of(self.job.toolchain, warm, scratch, database=tools.database, store=tools.store)
        # Only the first try starts warm: if the warm file causes a failure, the second try runs without it.
        if self.claim.tries == 1:
            self.warm_start.fetch(self.watch)
        self.joblog.say("starts warm" if self.warm_start.start else "starts cold")

    def run_programs(self) -> None:
        """Run the toolchain's programs one after the other.

        Raises:
            StageStopped: the heartbeat stopped the stage.
            StageFailed: a program failed, or passed a limit.
        """
        self.joblog.say("isolation: " + ", ".join(self.tools.isolation.in_force))
        for planned in self.toolchain.plan(self.job, self.directories):
            command = replace(planned, environment={**planned.environment, **self.tools.program_environment})
            output = ProgramOutput(
                self.toolchain,
                self.job,
                command.span,
                joblog=self.joblog,
                heartbeat=self.heartbeat,
                peaks=self.peaks,
            )
            self.joblog.say("running " + " ".join(command.argv))
            # A stop, a limit and a bad status differ in whose fault they are, so each has its own end below.
            limits = replace(self.tools.limits, wall_seconds=max(0.0, self.deadline - time.monotonic()))
            try:
                ended = child.run(
                    command,
                    paths=self.workspace.paths(self.view(command)),
                    limits=limits,
                    stop=self.heartbeat.stop,
                    on_output=output.write,
                    isolation=self.tools.isolation,
                    prepared=self.tools.standby.take(self.workspace, self.view(command)),
                    on_start=self.end_with_the_lease,
                )
            except (SandboxBroken, Unkillable) as error:
                self.programs_may_live = isinstance(error, Unkillable)
                raise StageFailed(without_end(error)) from error
            self.joblog.say(f"ended with status {ended.status}")
            # The kernel's figure counts too: most programs report no memory themselves.
            self.peaks.see(Report(peak_memory=ended.peak_memory))
            if ended.killed_for is KilledFor.STOP:
                raise StageStopped
            if ended.killed_for is not None:
                raise StageFailed(limit_passed(ended.killed_for, self.tools.limits))
            if ended.status != 0:
                failure = self.toolchain.classify(self.job.stage, ended)
                if runs_foreign_code(self.claim.work) and failure.fault is Fault.WORKER and not ended.oom_killed:
                    # The model's code may print and do anything: a few such models would quarantine every worker.
                    failure = failure.model_copy(update={"fault": Fault.TOOLCHAIN})
                raise StageFailed(failure)

    def end_with_the_lease(self, supervised: LaunchedSupervisor) -> None:
        """Tell the supervisor of each renewal: it ends the program of a frozen worker before another may start."""
        self.heartbeat.on_renewal = supervised.lease_renewed

    def leaves_room(self) -> bool:
        """True if the worker's next attempt may begin while the files of this one are on the disk.

        Raises:
            StageStopped, StageFailed: as `keep_going`.
        """
        if not self.tools.isolation.complete:
            return False  # the next one's programs could write into this one's output
        # The next attempt probably takes as much.
        unused_bytes = shutil.disk_usage(self.workspace.folder).free
        for size in sizes(self.workspace.folder):
            self.keep_going()
            unused_bytes -= size
            if unused_bytes < 0:
                return False
        return True

    def check(self) -> StageOutput:
        """Check that the output is complete, and describe it.

        Raises:
            InvalidOutput: a program ended with success, but its output is not usable.
            OutputRefused: the output has links, special files, or more than an output may have.
            StageStopped, StageFailed: as `keep_going`.
        """
        output = self.directories.output
        limits = self._output_limits()
        checking_began = time.monotonic()

        def keep_checking() -> None:
            self.keep_going()
            if time.monotonic() - checking_began > self.tools.limits.silence_seconds:
                raise StageFailed(limit_passed(KilledFor.SILENCE, self.tools.limits))

        try:
            # Before the toolchain's check, which may open what it finds.
            for _ in walk(output, limits):
                self.keep_going()
        except ValueError as error:
            raise OutputRefused(str(error)) from error
        # An exit status of 0 proves nothing: the output may lack files, or have a truncated one.
        facts = self.tools.checker.check(self.job, self.directories, keep_checking)
        differences = facts.get("differences")
        if differences:
            self.joblog.say(f"the output is not all that was requested: {json.dumps(differences)[:10_000]}")
        serving = None
        if self.job.stage is Stage.BUILD:
            serving = self.toolchain.serving(self.job)
        try:
            if serving is not None:
                # A file of the engine, so that a serving node can check these bytes like all others.
                write_new(output, SERVING_FILE, serving.model_dump_json(indent=2).encode())
            manifest = Manifest.of_directory(output, limits=limits, watch=self.watch)
        except ValueError as error:
            raise OutputRefused(str(error)) from error
        return StageOutput(manifest, facts, serving)

    def _output_limits(self) -> FolderLimits:
        """What the output may have: its files cannot be longer than the disk that they are on."""
        total_bytes = self.tools.limits.disk_bytes
        if total_bytes is None:
            disk = os.statvfs(self.directories.scratch)
            total_bytes = disk.f_blocks * disk.f_frsize
        return FolderLimits(total_bytes=total_bytes, hard_links_outside=False)

    def upload(self, output: StageOutput) -> StageOutput:
        """Upload the output's files, then the warm file; returns the output with the files that were rewritten.

        Raises:
            StageStopped: the heartbeat stopped the stage.
            StoreUnavailable: the store did not answer.
        """
        output = self.upload_again(output)
        if self.job.stage is Stage.CONVERT:
            self.tools.inputs.keep_output(output.manifest, self.directories.output, self.watch)
            # The builds from this checkpoint name its conversion.
            WarmRecords(self.tools.inputs.cache).remember(self.claim.key, output.manifest.files)
        # After the engine, which callers wait for: a warm file only makes a later stage faster.
        if self.warm_start is not None:
            self.warm_start.upload(self.watch)
        return output

    def upload_again(self, output: StageOutput) -> StageOutput:
        """Upload the files that the store lacks, and those that it has damaged. Raises as `upload`."""
        with self.tools.database.read() as session:
            # `put` skips blobs that the store has; those known as damaged must be written over.
            damaged = frozenset(damaged_blobs(session, blob_sizes(output.manifest)))
        files = output.manifest.files
        upload_files(self.tools.store, self.directories.output, files, anew=damaged, keep_going=self.keep_going)
        return replace(output, rewritten=output.rewritten | damaged)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step, and name it in the log and in the status of the builds that wait for it."""
        self.current_step = name
        self.keep_going()
        self.heartbeat.message = _STEP_MESSAGES.get(name)
        self.joblog.say(f"{name} begins")
        started = time.monotonic()
        try:
            yield
        finally:
            # Also for a step that fails: the attempt's record shows how long it took.
            self.steps[name] = round(time.monotonic() - started, 3)

    def watch(self, _: int) -> None:
        """A `Watch` for reading and sending: as `keep_going`."""
        self.keep_going()

    def keep_going(self) -> None:
        """Return if the stage may go on.

        Raises:
            StageStopped: the heartbeat stopped the stage.
            StageFailed: the stage's time is over.
        """
        if self.heartbeat.stop.is_set():
            raise StageStopped
        if time.monotonic() > self.deadline:
            raise StageFailed(out_of_time(self.current_step, self.tools.limits))


def upload_log(store: Store, joblog: JobLog) -> tuple[str, int]:
    """Upload the log, head and tail, as a blob; returns its (digest, size in bytes)."""
    joblog.settle()
    hasher, size = hashlib.sha256(), 0
    for piece in joblog.read():
        hasher.update(piece)
        size += len(piece)
    name = f"sha256:{hasher.hexdigest()}"
    store.put_stream(joblog.read(), name, size)
    return name, size
