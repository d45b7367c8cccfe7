"""Run one program of a toolchain as a child: enforce its limits, pass on its output, kill all that it started."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Event

from toolchains.toolchain import PASSED_ON, Command, Exit
from workers import supervisor

_TICK = 0.2  # seconds between two checks of the stop signal and the limits
_DISK_SECONDS = 2.0  # between two measurements of the disk: each walks through the whole folder
_READ_BYTES = 1 << 16
_TAIL_LINES = 200


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of one program: its run time, its silence, its time to end after SIGTERM, and its disk (bytes)."""

    wall_seconds: float
    silence_seconds: float
    kill_seconds: float
    disk_bytes: int | None = None  # of the whole stage: source, output and scratch together; None: no limit
    offline: bool = False  # without a network, where the machine allows that


class KilledFor(StrEnum):
    """Why this worker killed a program."""

    STOP = "stop"
    WALL = "wall"
    SILENCE = "silence"
    DISK = "disk"


@dataclass(frozen=True)
class Ended(Exit):
    """`killed_for`: why this worker killed the program; None if it ended by itself."""

    killed_for: KilledFor | None = None


def run(
    command: Command, *, scratch: Path, limits: ProcessLimits, stop: Event, on_output: Callable[[bytes], None]
) -> Ended:
    """Run `command` in `scratch` until it ends, `stop` is set or a limit is exceeded.

    `on_output` gets the bytes of both output streams in their order. Returns when no process of the program is alive.
    """
    # The report has a pipe of its own: a program may print anything to the standard streams.
    reading, writing = os.pipe()
    # -I and -S: neither the environment nor site-packages decide what the supervisor imports.
    argv = [sys.executable, "-I", "-S", supervisor.__file__, str(writing), str(limits.kill_seconds)]
    argv += ["offline" if limits.offline else "online", *command.argv]
    process = subprocess.Popen(
        argv,
        cwd=scratch,
        env=environment(scratch, command.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(writing,),
        start_new_session=True,
    )
    # Only the supervisor may hold the writing end: then its death ends the read of the report.
    os.close(writing)
    try:
        tail = _Tail(on_output)
        killed_for = watch(process, limits, stop, tail, scratch.parent)
        report = json.loads(os.read(reading, 4096) or b"{}")
    finally:
        os.close(reading)
        # Also after an error of `on_output`: a closed stdin makes the supervisor kill the program.
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()
    # Without a report the supervisor itself was killed, and the program with it.
    status = report.get("status", -9)
    return Ended(status, tail.text(), report.get("peak_memory"), report.get("oom_killed", False), killed_for)


def environment(scratch: Path, added: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: a few variables of the worker without secrets, the farm's own, then `added`."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
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
        self._lines.extend(line[-2000:] for line in lines)
        self._unfinished_line = unfinished[-_READ_BYTES:]

    def text(self) -> str:
        return b"\n".join([*self._lines, self._unfinished_line]).decode(errors="replace")


def watch(
    process: subprocess.Popen[bytes], limits: ProcessLimits, stop: Event, tail: _Tail, folder: Path
) -> KilledFor | None:
    """Read the output until it ends; stop the program for a limit or `stop`. Returns why it was stopped, or None."""
    assert process.stdout is not None
    assert process.stdin is not None
    started = last_output = disk_measured = time.monotonic()
    killed_for: KilledFor | None = None
    descriptor = process.stdout.fileno()
    while True:
        readable, _, _ = select.select([descriptor], [], [], _TICK)
        now = time.monotonic()
        if readable:
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
        elif limits.disk_bytes is not None and now - disk_measured > _DISK_SECONDS:
            # Measured last and seldom: it costs a system call a file.
            disk_measured = now
            if used(folder) > limits.disk_bytes:
                killed_for = KilledFor.DISK
        if killed_for is not None:
            # Tells the supervisor to end the program.
            process.stdin.close()


def used(folder: Path) -> int:
    """Bytes that the files below `folder` take on the disk; files that cannot be read count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted since the listing
                # Blocks, not the length: a sparse file takes less than it is long. st_blocks counts units of 512 bytes.
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  # called often
    return total
