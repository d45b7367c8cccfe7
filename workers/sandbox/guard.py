"""End a stage's programs from outside, whatever happens inside, and find out when the last one is dead."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import time
from contextlib import suppress
from types import TracebackType

from workers.sandbox import supervisor
from workers.sandbox.isolation import Launch

_INFO_SECONDS = 10.0  # for bubblewrap to make the namespaces; it takes milliseconds
_PAUSE_SECONDS = 0.02


class Guard:
    """Knows process 1 of the sandbox, whose death is the death of every process in it.

    Without the sandbox the worker itself becomes a subreaper for as long as the block lasts: what a program leaves
    behind after it has killed its supervisor becomes a child of the worker, and is killed as one.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._first: int | None = None  # pidfd of process 1
        self._ends: list[int] = []  # pidfds of what was started and of process 1: readable once they have ended
        self._started_at = 0  # of the supervisor, in ticks since the machine booted

    def __enter__(self) -> Guard:
        if self._launch.info is None:
            _adopt_orphans(adopt=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._ends:
            os.close(descriptor)
        if self._launch.info is None:
            _adopt_orphans(adopt=False)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Remember the process that was started, and find process 1 of its sandbox."""
        self._process = process
        # Not reaped yet, so that both are of this very process.
        self._ends.append(os.pidfd_open(process.pid))
        self._started_at = _started_at(process.pid)
        for file in self._launch.inherited:
            file.close()
        info = self._launch.info
        if info is None:
            return
        answer = b""
        deadline = time.monotonic() + _INFO_SECONDS
        while (seconds_left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([info], [], [], seconds_left)
            piece = info.read(4096) if readable else b""
            if not piece:
                break
            answer += piece
        match = re.search(rb'"child-pid": (\d+)', answer)
        # Without an answer bubblewrap has failed: it prints the reason to the program's output.
        if match is not None:
            self._first = _open_child(int(match[1]), process.pid)
        if self._first is not None:
            self._ends.append(self._first)

    def kill(self) -> None:
        """Kill everything at once. Returns without waiting."""
        assert self._process is not None
        if self._first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
        if self._launch.cgroup is not None:
            self._launch.cgroup.kill()
        self._process.kill()
        self._kill_orphans()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is dead; False if that takes longer. Kills orphans of a supervisor that is dead."""
        assert self._process is not None
        deadline = time.monotonic() + seconds
        # The kernel ends process 1 after all others of its namespace.
        for descriptor in self._ends:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                return False
        self._process.wait()
        while self._kill_orphans():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _kill_orphans(self) -> bool:
        """Kill and reap orphans that this process adopted; True if there were any."""
        assert self._process is not None
        if self._launch.info is not None:
            return False
        orphans = []
        for pid in supervisor.children_of(os.getpid()):
            # The worker's own other children are older: it starts none while a program runs.
            with suppress(OSError):
                if pid != self._process.pid and _started_at(pid) >= self._started_at:
                    orphans.append(pid)
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return bool(orphans)


def _started_at(pid: int) -> int:
    """In ticks since the machine booted. Raises OSError if the process has ended and was reaped."""
    return int(supervisor.stat_fields(pid)[19])


def _open_child(pid: int, parent: int) -> int | None:
    """A pidfd of a process; None if it has ended, even if another process has its id now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with suppress(OSError):
        if int(supervisor.stat_fields(pid)[1]) == parent:
            return descriptor
    os.close(descriptor)
    return None


def _adopt_orphans(*, adopt: bool) -> None:
    ctypes.CDLL(None).prctl(supervisor.PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
