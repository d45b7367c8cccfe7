"""Run one program of a toolchain as a child: enforce its limits, pass on its output, kill all that it started."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from io import FileIO
from pathlib import Path
from threading import Event
from typing import Any

from toolchains.toolchain import PASSED_ON, Command, Exit
from workers.sandbox.guard import Guard
from workers.sandbox.isolation import Isolation
from workers.sandbox.mount_view import StagePaths
from workers.sandbox.supervisor import Orders
from workers.workspace import sizes

_TICK = 0.2  # seconds between two checks of the stop signal and the limits
_DISK_SECONDS = 2.0  # between two measurements of the disk: each walks through the whole folder
_DISK_SLICE_SECONDS = 0.1
_READ_BYTES = 1 << 16
_TAIL_LINES = 1000  # a C++ assertion is followed by a stack of about a hundred lines, of each rank
_LONGEST_LINE = 2000  # bytes: toolchains search the tail with regular expressions, whose time may grow by the square
# The supervisor has this much longer than `kill_seconds` to end everything; then the worker kills from outside.
_MARGIN_SECONDS = 1.0
_DEATH_SECONDS = 5.0  # for the kernel to end what was killed


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of one program: its run time, its silence, its time to end after SIGTERM, disk and memory (bytes)."""

    wall_seconds: float
    silence_seconds: float
    kill_seconds: float
    disk_bytes: int | None = None  # of the whole stage: source, output and scratch together; None: no limit
    processes: int | None = None  # of the whole stage, threads included
    memory_bytes: int | None = None  # of the whole stage; needs a delegated cgroup


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
) -> Ended:
    """Run `command` in the scratch folder until it ends, `stop` is set or a limit is exceeded.

    `on_output` gets the bytes of both output streams in their order. Returns when no process of the program is alive:
    after a stop or a limit, that takes `kill_seconds` and at most 6 seconds more.

    Raises:
        SandboxBroken: the program did not start.
        Unkillable: a process of the program cannot be killed.
    """
    # The report has a pipe of its own: a program may print anything to the standard streams.
    reading, writing = os.pipe()
    with (
        FileIO(reading) as report_file,
        FileIO(writing, "w") as report_for_supervisor,
        isolation.launch(paths, memory_bytes=limits.memory_bytes, processes=limits.processes) as launch,
        Guard(launch) as guard,
    ):
        program_environment = environment(paths.scratch, launch.temporary, command.environment)
        orders = Orders(
            writing,
            limits.kill_seconds,
            processes=limits.processes,
            # Bounds sparse files, which take no disk. Twice the limit, so that the worker finds what does take disk.
            file_bytes=None if limits.disk_bytes is None else 2 * limits.disk_bytes,
            seccomp_fd=launch.seccomp_fd,
            leave_network=launch.leave_network,
        )
        process = subprocess.Popen(
            # -I and -S: neither the environment nor site-packages decide what the supervisor imports.
            [*launch.prefix, sys.executable, "-I", "-S", str(launch.supervisor), orders.dump(), *command.argv],
            cwd=paths.scratch,
            env=program_environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing, *(file.fileno() for file in launch.inherited)),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # Only the supervisor may hold the writing end: then its death ends the read of the report.
        report_for_supervisor.close()
        report = _Report(report_file)
        tail = _Tail(on_output)
        killed_for = None
        try:
            guard.watch(process)
            killed_for = watch(process, report, limits, stop, tail, paths.scratch.parent)
        finally:
            # Also after an error of `on_output`: a closed stdin makes the supervisor kill the program.
            process.stdin.close()
            # It has ended everything by now, unless a program stopped or killed it.
            is_dead = guard.wait(_MARGIN_SECONDS)
            if not is_dead:
                guard.kill()
                is_dead = guard.wait(_DEATH_SECONDS)
            process.stdout.close()
        if not is_dead:
            raise Unkillable
        report.read()
        oom_kills = 0
        if launch.cgroup is not None:
            oom_kills = launch.cgroup.oom_kills()
    if not report.started:
        raise SandboxBroken(tail.last_line())
    ended = report.ended
    # Without a report the supervisor itself was killed, and the program with it.
    status = ended.get("status", -signal.SIGKILL)
    if ended.get("too_many_processes"):
        killed_for = killed_for or KilledFor.PROCESSES
    elif status == -signal.SIGXFSZ:
        # The kernel ended the program at the longest file that it may write.
        killed_for = killed_for or KilledFor.DISK
    oom_killed = bool(ended.get("oom_killed", False) or oom_kills)
    return Ended(
        status=status,
        tail=tail.text(),
        peak_memory=ended.get("peak_memory"),
        oom_killed=oom_killed,
        argv=command.argv,
        killed_for=killed_for,
    )


def environment(scratch: Path, temporary: Path, added: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: a few variables of the worker without secrets, the farm's own, then `added`."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # HOME and TMPDIR in the scratch folder: caches of compilers then count for the disk limit and go with the attempt.
    # HF_HUB_OFFLINE: the sources are fetched and checked; a program that fetches others would make an unknown engine.
    own = {"HOME": str(scratch), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    return {**passed_on, **own, **added}


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


class _Report:
    """Reads the supervisor's report, line by line."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._content = b""
        self.finished = False  # the supervisor wrote all of it, or is dead
        os.set_blocking(file.fileno(), False)

    def fileno(self) -> int:
        """For select()."""
        return self._file.fileno()

    def read(self) -> None:
        """Read what is there, without waiting."""
        while not self.finished:
            piece = self._file.read(4096)
            if piece is None:
                return
            self._content += piece
            self.finished = not piece or self._content.count(b"\n") == 2

    @property
    def started(self) -> bool:
        """True if the supervisor started, in the sandbox."""
        return b"\n" in self._content

    @property
    def ended(self) -> dict[str, Any]:
        """How the program ended; empty if the supervisor did not say it."""
        lines = self._content.split(b"\n")
        if len(lines) < 3:
            return {}
        document: dict[str, Any] = json.loads(lines[1])
        return document


def watch(
    process: subprocess.Popen[bytes], report: _Report, limits: ProcessLimits, stop: Event, tail: _Tail, folder: Path
) -> KilledFor | None:
    """Read the output until it ends; stop the program for a limit or `stop`. Returns why it was stopped, or None.

    Returns also if the output does not end although the program or its supervisor has: then processes must be killed.
    """
    assert process.stdout is not None
    assert process.stdin is not None
    started = last_output = time.monotonic()
    disk = _Disk(folder)
    killed_for: KilledFor | None = None
    deadline = float("inf")
    descriptor = process.stdout.fileno()
    while time.monotonic() < deadline:
        waiting_for = [descriptor] if report.finished else [descriptor, report.fileno()]
        readable, _, _ = select.select(waiting_for, [], [], _TICK)
        now = time.monotonic()
        if report.fileno() in readable:
            report.read()
            if report.finished:
                deadline = min(deadline, now + _MARGIN_SECONDS)
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
            # Tells the supervisor to end the program.
            process.stdin.close()
            deadline = min(deadline, now + limits.kill_seconds + _MARGIN_SECONDS)
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
