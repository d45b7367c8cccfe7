"""Run one program of a toolchain as a supervised child: limits, output, and an end for all that it started."""

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

_TICK = 0.2  # seconds between two looks at the stop signal and the limits
_MEASURED_EVERY = 2.0  # seconds between two looks at the disk
_READ = 1 << 16
_TAIL_LINES = 200


@dataclass(frozen=True)
class ProcessLimits:
    """How long a program may run and be silent, how long it has to end after SIGTERM, and how much disk it may fill."""

    wall_seconds: float
    silence_seconds: float
    kill_seconds: float
    disk_bytes: int | None = None  # of the whole stage: its source, its output, its scratch
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
    """Run `command` in `scratch` until it ends, `stop` is set or a limit is passed.

    Output (both streams, as they come) goes to `on_output`. Returns only when nothing of it runs any more.
    """
    reading, writing = os.pipe()
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
    os.close(writing)
    try:
        tail = _Tail(on_output)
        killed_for = _supervise(process, limits, stop, tail, scratch.parent)
        report = json.loads(os.read(reading, 4096) or b"{}")
    finally:
        os.close(reading)
        _end(process)
    # Without a report the supervisor itself was killed, and the program with it.
    status = report.get("status", -9)
    return Ended(status, tail.text(), report.get("peak_memory"), report.get("oom_killed", False), killed_for)


def environment(scratch: Path, added: Mapping[str, str]) -> dict[str, str]:
    """What a program sees of the worker's environment: a few names, none of them a secret."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    own = {"HOME": str(scratch), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    return {**passed, **own, **added}


class _Tail:
    """Passes output on and keeps the last lines, for the toolchain to say what went wrong."""

    def __init__(self, on_output: Callable[[bytes], None]) -> None:
        self._on_output = on_output
        self._lines: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._rest = b""

    def write(self, data: bytes) -> None:
        self._on_output(data)
        *lines, rest = (self._rest + data).split(b"\n")
        self._lines.extend(line[-2000:] for line in lines)
        self._rest = rest[-_READ:]

    def text(self) -> str:
        return b"\n".join([*self._lines, self._rest]).decode(errors="replace")


def _supervise(
    process: subprocess.Popen[bytes], limits: ProcessLimits, stop: Event, tail: _Tail, folder: Path
) -> KilledFor | None:
    """Read until the output ends; close the supervisor's stdin to end the program. Returns why, if that was needed."""
    assert process.stdout is not None
    assert process.stdin is not None
    started = heard = measured = time.monotonic()
    killed_for: KilledFor | None = None
    output = process.stdout.fileno()
    while True:
        ready, _, _ = select.select([output], [], [], _TICK)
        now = time.monotonic()
        if ready:
            data = os.read(output, _READ)
            if not data:
                return killed_for
            heard = now
            tail.write(data)
        if killed_for is None:
            killed_for = _reason(stop, now - started, now - heard, limits)
            if killed_for is None and limits.disk_bytes is not None and now - measured > _MEASURED_EVERY:
                killed_for, measured = (KilledFor.DISK if used(folder) > limits.disk_bytes else None), now
            if killed_for is not None:
                process.stdin.close()


def used(folder: Path) -> int:
    """Bytes on disk below `folder`, as far as it can be read."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  # called often
    return total


def _reason(stop: Event, running: float, silent: float, limits: ProcessLimits) -> KilledFor | None:
    if stop.is_set():
        return KilledFor.STOP
    if running > limits.wall_seconds:
        return KilledFor.WALL
    if silent > limits.silence_seconds:
        return KilledFor.SILENCE
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.wait()
    process.stdout.close()
