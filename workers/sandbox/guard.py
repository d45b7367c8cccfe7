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
from pathlib import Path
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
        self._children_before: frozenset[int] = frozenset()

    def __enter__(self) -> Guard:
        if self._launch.info is None:
            _adopt_orphans(adopt=True)
            self._children_before = frozenset(supervisor.children_of(os.getpid()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            os.close(self._first)
        if self._launch.info is None:
            _adopt_orphans(adopt=False)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Remember the process that was started, and find process 1 of its sandbox."""
        self._process = process
        for file in self._launch.inherited:
            file.close()
        info = self._launch.info
        if info is None:
            return
        answer = b""
        deadline = time.monotonic() + _INFO_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([info], [], [], left)
            piece = info.read(4096) if readable else b""
            if not piece:
                break
            answer += piece
        match = re.search(rb'"child-pid": (\d+)', answer)
        # Without an answer bubblewrap has failed: it prints the reason to the program's output.
        if match is not None:
            self._first = _open_child(int(match[1]), process.pid)

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

    def is_dead(self) -> bool:
        """True if no process of the program is alive. Kills orphans of a supervisor that is dead."""
        assert self._process is not None
        if self._process.poll() is None:
            return False
        if self._first is not None:
            # Readable once process 1 has ended; the kernel ends it after all others of its namespace.
            return bool(select.select([self._first], [], [], 0)[0])
        return not self._kill_orphans()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is dead; False if that takes longer."""
        deadline = time.monotonic() + seconds
        while not self.is_dead():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        return True

    def _kill_orphans(self) -> bool:
        """Kill and reap orphans that this process adopted; True if there were any."""
        assert self._process is not None
        if self._launch.info is not None:
            return False
        orphans = set(supervisor.children_of(os.getpid())) - self._children_before - {self._process.pid}
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return bool(orphans)


def _open_child(pid: int, parent: int) -> int | None:
    """A pidfd of a process; None if it has ended, even if another process has its id now."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        if int(stat.rpartition(b")")[2].split()[1]) == parent:
            return descriptor
    os.close(descriptor)
    return None


def _adopt_orphans(*, adopt: bool) -> None:
    ctypes.CDLL(None).prctl(supervisor.PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)
