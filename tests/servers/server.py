"""Run a server as one or more child processes, which the kernel kills when the process that started them ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

CHECKOUT = Path(__file__).resolve().parents[2]

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class DidNotStart(RuntimeError):
    """A server was not ready before its deadline. The text ends with the tail of its log."""


@dataclass(frozen=True)
class Program:
    """The command of one child process. `popen` has more arguments of `subprocess.Popen`, such as user and group."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    popen: Mapping[str, Any] = field(default_factory=dict)


class Server(ABC):
    """A server that can be killed and started again with the same port and data.

    The kernel kills the children when the *thread* that started them ends, so call `start` and `restart` from a thread
    that lives as long as the server is needed.
    """

    deadline = 60.0  # seconds to become ready: generous, because test machines are busy
    stop_signal = signal.SIGTERM

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for clients, with credentials."""

    @abstractmethod
    def programs(self) -> Sequence[Program]:
        """The child processes; first the one that clients connect to. May prepare `data` when it is empty."""

    @abstractmethod
    def check(self) -> None:
        """Raise an exception, of any class, unless the server answers."""

    def check_others(self) -> None:  # noqa: B027  # most servers have one process
        """Raise an exception, of any class, unless the processes behind the first one answer."""

    @property
    def pid(self) -> int:
        """The process that clients connect to."""
        return self._processes[0].pid

    @property
    def running(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def start(self) -> None:
        first, *others = self.programs()
        # The one that clients connect to starts last: an S3 server whose parts are not up says that there is no bucket.
        started = [self._spawn(program) for program in others]
        try:
            self._processes = started
            self._wait_until_ready(self.check_others)
            self._processes = [self._spawn(first), *started]
            self._wait_until_ready(self.check)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Send every process `stop_signal`, and kill those that still run after ten seconds."""
        for process in self._processes:
            process.send_signal(self.stop_signal)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to every process of the server and to their descendants, as a crash would end them."""
        for process in self._processes:
            for member in _process_tree(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()
        self._processes = []

    def restart(self) -> None:
        self.stop()
        self.start()

    def log_tail(self, lines: int = 20) -> str:
        """The last `lines` lines of the log of each process."""
        tail = []
        for log in sorted(self.data.glob("*.log")):
            tail += log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(tail)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, program: Program) -> subprocess.Popen[bytes]:
        with (self.data / f"{program.name}.log").open("ab") as log:
            return subprocess.Popen(
                program.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                env=program.env,
                preexec_fn=_die_with_parent,
                **program.popen,
            )

    def _wait_until_ready(self, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.deadline
        while True:
            try:
                return check()
            except Exception as error:
                ended = [process.args for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    reason = f"ended at once: {ended}" if ended else f"not ready after {self.deadline:.0f} s: {error!r}"
                    raise DidNotStart(f"{type(self).__name__} {reason}; its log ends:\n{self.log_tail()}") from error
                time.sleep(0.02)


def free_port() -> int:
    """A free port below the range of outgoing connections, so that a restarted server finds it free again."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DidNotStart("no free port between 20000 and 32000 on 127.0.0.1")


def new_data_dir(name: str, *, xattrs: bool = False) -> Path:
    """Make an empty directory that other users can enter; with `xattrs`, on a file system with user attributes."""
    candidates = [Path(tempfile.gettempdir()), CHECKOUT / "var"]
    for parent in candidates:
        parent.mkdir(exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"enginefarm-test-{name}-", dir=parent))
        directory.chmod(0o711)
        if not xattrs or _takes_xattrs(directory):
            return directory
        directory.rmdir()
    folders = " nor ".join(map(str, candidates))
    raise DidNotStart(
        f"{name} needs a file system with user extended attributes: neither {folders} has them; set TMPDIR"
    )


def _takes_xattrs(directory: Path) -> bool:
    try:
        # Of the size that Swift stores: some file systems take short attributes only.
        os.setxattr(directory, "user.enginefarm", b"x" * 1024)
    except OSError:
        return False
    os.removexattr(directory, "user.enginefarm")
    return True


def _process_tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
