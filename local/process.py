"""A server as a child process: output to a file, ended with us whatever happens to us."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: after a fork nothing may be imported


class StartFailedError(Exception):
    """A part did not come up; says where its log is and how it ends."""


class Process:
    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                list(argv),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own group: a terminal's Ctrl-C is for us, and we end the parts in order.
                start_new_session=True,
                preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Raises StartFailedError if it ends, or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self._popen.poll() is not None:
                raise StartFailedError(f"{self.name} ended with status {self._popen.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise StartFailedError(f"{self.name} was not ready after {seconds:g} s:\n{self._tail()}")
            time.sleep(0.05)

    def ended(self) -> bool:
        return self._popen.poll() is not None

    def stop(self, *, seconds: float = 20) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([*lines, f"(all of it: {self.log})"])
