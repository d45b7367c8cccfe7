"""Run one program of a toolchain as a child: enforce its limits, pass on its output, kill all that it started."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event

from toolchains.toolchain import PASSED_ON, Command, Exit
from workers.sandbox.isolation import Isolation
from workers.sandbox.launched import MARGIN_SECONDS, LaunchedSupervisor
from workers.sandbox.mount_view import StagePaths
from workers.sandbox.supervisor import Ending, Orders
from workers.scratch.workspace import sizes

_TICK = 0.2  # seconds between two checks of the stop signal and the limits
_DISK_SECONDS = 2.0  # between two measurements of the disk: each walks through the whole folder
_DISK_SLICE_SECONDS = 0.1
_READ_BYTES = 1 << 16
_TAIL_LINES = 1000  # a C++ assertion is followed by a stack of about a hundred lines, of each rank
_LONGEST_LINE = 2000  # bytes: toolchains search the tail with regular expressions, whose time may grow by the square


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of one program: its run time, its silence, its time to end after SIGTERM, disk and memory (bytes)."""

    wall_seconds: float
    silence_seconds: float
    kill_seconds: float
    disk_bytes: int | None = None  # of the whole stage: source, output and scratch together; None: no limit
    processes: int | None = None  # of the whole stage, threads included
    memory_bytes: int | None = None  # of the whole stage; needs a delegated cgroup
    renewal_seconds: float | None = None  # after the last renewal of the lease: then the supervisor ends the program


class KilledFor(StrEnum):
    """Why this worker killed a program."""

    STOP = "stop"
    WALL = "wall"
    SILENCE = "silence"
    DISK = "disk"
    PROCESSES = "processes"


@dataclass(frozen=True)
class Ended(Exit):
    """`killed_for`: why this worker killed the program; None if it ended by itself."""

    killed_for: KilledFor | None = None


class SandboxBroken(Exception):
    """The supervisor did not start, so the program did not either. The text is the last line of output."""


class Unkillable(Exception):
    """A process of the program is still alive after SIGKILL, because it hangs in a system call."""


def run(
    command: Command,
    *,
    paths: StagePaths,
    limits: ProcessLimits,
    stop: Event,
    on_output: Callable[[bytes], None],
    isolation: Isolation,
    prepared: LaunchedSupervisor | None = None,
    on_start: Callable[[LaunchedSupervisor], None] | None = None,
) -> Ended:
    """Run `command` in the scratch folder until it ends, `stop` is set or a limit is exceeded.

    `on_output` gets the bytes of both output streams in their order. Returns when no process of the program is alive:
    after a stop or a limit, that takes `kill_seconds` and at most 6 seconds more.

    Args:
        prepared: a supervisor for these paths that waits for its program; without one, another is started.
        on_start: gets the supervisor, so that the renewals of the lease reach it.

    Raises:
        SandboxBroken: the program did not start.
        Unkillable: a process of the program cannot be killed.
    """
    with closing(prepared or launch(isolation, paths, limits)) as supervised:
        orders = Orders(
            list(command.argv),
            {**environment(paths.scratch), "TMPDIR": str(supervised.launch.temporary), **command.environment},
            limits.kill_seconds,
            processes=limits.processes,
            # Bounds sparse files, which take no disk. Twice the limit, so that the worker finds what does take disk.
            file_bytes=None if limits.disk_bytes is None else 2 * limits.disk_bytes,
            renewal_seconds=limits.renewal_seconds,
        )
        supervised.order(orders)
        if on_start is not None:
            on_start(supervised)
        tail = _Tail(on_output)
        try:
            killed_for = watch(supervised, limits, stop, tail)
        finally:
            # Also after an error of `on_output`.
            is_dead = supervised.end()
        if not is_dead:
            raise Unkillable
        report = supervised.report
        report.read()
        oom_kills = supervised.oom_kills()
    if not report.started:
        raise SandboxBroken(tail.last_line())
    # Without an ending the supervisor itself was killed, and the program with it.
    ending = report.ending or Ending(-signal.SIGKILL, 0, oom_killed=False, too_many_processes=False)
    if ending.too_many_processes:
        killed_for = killed_for or KilledFor.PROCESSES
    elif ending.status == -signal.SIGXFSZ:
        # The kernel ended the program at the longest file that it may write.
        killed_for = killed_for or KilledFor.DISK
    return Ended(
        status=ending.status,
        tail=tail.text(),
        peak_memory=ending.peak_memory or None,
        oom_killed=ending.oom_killed or oom_kills > 0,
        argv=command.argv,
        killed_for=killed_for,
    )


def launch(isolation: Isolation, paths: StagePaths, limits: ProcessLimits) -> LaunchedSupervisor:
    """Start a supervisor for one program of a stage. Raises as `LaunchedSupervisor`."""
    return LaunchedSupervisor(
        isolation, paths, environment(paths.scratch), memory_bytes=limits.memory_bytes, processes=limits.processes
    )


def environment(scratch: Path) -> dict[str, str]:
    """The environment of every program: a few variables of the worker without secrets, and the farm's own."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # HOME in the scratch folder: caches of compilers then count for the disk limit and go with the attempt.
    # HF_HUB_OFFLINE: the sources are fetched and checked; a program that fetches others would make an unknown engine.
    return {**passed_on, "HOME": str(scratch), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}


class _Tail:
    """Passes output on and keeps its last lines, from which the toolchain classifies a failure."""

    def __init__(self, on_output: Callable[[bytes], None]) -> None:
        self._on_output = on_output
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._unfinished_line = b""

    def write(self, output: bytes) -> None:
        self._on_output(output)
        *lines, unfinished = (self._unfinished_line + output).split(b"\n")
        # Bounded: a program may print gigabytes without the end of a line.
        self._lines.extend(line[-_LONGEST_LINE:] for line in lines)
        self._unfinished_line = unfinished[-_READ_BYTES:]

    def text(self) -> str:
        return b"\n".join([*self._lines, self._unfinished_line[-_LONGEST_LINE:]]).decode(errors="replace")

    def last_line(self) -> str:
        """The last line that is not empty."""
        lines = [line.strip() for line in self.text().splitlines()]
        return next((line for line in reversed(lines) if line), "it printed nothing")


def watch(supervised: LaunchedSupervisor, limits: ProcessLimits, stop: Event, tail: _Tail) -> KilledFor | None:
    """Read the output until it ends; stop the program for a limit or `stop`. Returns why it was stopped, or None.

    Returns also if the output does not end although the program or its supervisor has: then processes must be killed.
    """
    report = supervised.report
    started = last_output = time.monotonic()
    disk = _Disk(supervised.paths.scratch.parent)
    killed_for: KilledFor | None = None
    deadline = float("inf")
    descriptor = supervised.output.fileno()
    while time.monotonic() < deadline:
        waiting_for = [descriptor] if report.finished else [descriptor, report.fileno()]
        readable, _, _ = select.select(waiting_for, [], [], _TICK)
        now = time.monotonic()
        if report.fileno() in readable:
            report.read()
            if report.finished:
                deadline = min(deadline, now + MARGIN_SECONDS)
        if descriptor in readable:
            output = os.read(descriptor, _READ_BYTES)
            if not output:
                return killed_for
            last_output = now
            tail.write(output)
        if killed_for is not None:
            # The supervisor is ending the program; what the program still prints belongs to the log.
            continue
        if stop.is_set():
            killed_for = KilledFor.STOP
        elif now - started > limits.wall_seconds:
            killed_for = KilledFor.WALL
        elif now - last_output > limits.silence_seconds:
            killed_for = KilledFor.SILENCE
        elif limits.disk_bytes is not None and disk.measure() > limits.disk_bytes:
            killed_for = KilledFor.DISK
        if killed_for is not None:
            supervised.stop()
            deadline = min(deadline, now + limits.kill_seconds + MARGIN_SECONDS)
    return killed_for


class _Disk:
    """Measures a folder in short slices: a program may make more files than can be counted between two ticks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: Iterator[int] | None = None
        self._measured = time.monotonic()
        self._total = 0

    def measure(self) -> int:
        """Continue to measure for a moment. Returns the bytes that were found so far, or at the last measurement."""
        now = time.monotonic()
        if self._sizes is None:
            if now - self._measured < _DISK_SECONDS:
                return self._total
            self._sizes, self._total = sizes(self._folder), 0
        for size in self._sizes:
            self._total += size
            if time.monotonic() - now > _DISK_SLICE_SECONDS:
                return self._total
        self._sizes = None
        self._measured = time.monotonic()
        return self._total
