"""A server of one or more child processes, which never outlives the process that started it."""

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
from collections.abc import Mapping, Sequence
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
    """What to run for one child process. `popen` goes to `subprocess.Popen` (user, group, …)."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    popen: Mapping[str, Any] = field(default_factory=dict)


class Server(ABC):
    """Start it, kill it, start it again: port and data stay the same.

    The kernel kills the children when the *thread* that started them ends, so call `start` and
    `restart` from a thread that lives as long as the server is needed.
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
        """Where clients connect, credentials included."""

    @abstractmethod
    def programs(self) -> Sequence[Program]:
        """The child processes, the one that clients talk to first. May prepare `data` when it is empty."""

    @abstractmethod
    def check(self) -> None:
        """Raise unless the server answers."""

    @property
    def pid(self) -> int:
        """Of the process that clients talk to."""
        return self._processes[0].pid

    @property
    def running(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def start(self) -> None:
        self._processes = [self._spawn(program) for program in self.programs()]
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the processes to end, and insist after ten seconds."""
        for process in self._processes:
            process.send_signal(self.stop_signal)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        self.kill()

    def kill(self) -> None:
        """SIGKILL every process of the server, children of children too, as a crash would."""
        for process in self._processes:
            for victim in _family(process.pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            process.wait()
        self._processes = []

    def restart(self) -> None:
        self.stop()
        self.start()

    def log_tail(self, lines: int = 20) -> str:
        texts = [log.read_text(errors="replace").splitlines()[-lines:] for log in sorted(self.data.glob("*.log"))]
        return "\n".join(line for text in texts for line in text)

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

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + self.deadline
        while True:
            try:
                return self.check()
            except Exception as error:
                ended = [process.args for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > give_up:
                    what = f"ended at once: {ended}" if ended else f"not ready after {self.deadline:.0f} s: {error!r}"
                    raise DidNotStart(f"{type(self).__name__} {what}; its log ends:\n{self.log_tail()}") from error
                time.sleep(0.02)


def free_port() -> int:
    """A free port below the range of outgoing connections, so that a restarted server finds it free again."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise DidNotStart("no free port between 20000 and 32000 on 127.0.0.1")


def new_data_dir(name: str, *, xattrs: bool = False) -> Path:
    """An empty directory that other users can pass through; with `xattrs`, where files take user attributes."""
    candidates = [Path(tempfile.gettempdir()), CHECKOUT / "var"]
    for parent in candidates:
        parent.mkdir(exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"enginefarm-test-{name}-", dir=parent))
        directory.chmod(0o711)
        if not xattrs or _takes_xattrs(directory):
            return directory
        directory.rmdir()
    where = " nor ".join(str(candidate) for candidate in candidates)
    raise DidNotStart(f"{name} needs a file system with user extended attributes: neither {where} has them; set TMPDIR")


def _takes_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.enginefarm", b"x" * 1024)
    except OSError:
        return False
    os.removexattr(directory, "user.enginefarm")
    return True


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
