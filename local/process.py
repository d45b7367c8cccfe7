"""A server as a child process: its output goes to a file, and it ends when this process ends, however that happens."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from models.exit_codes import ExitCode
from models.start import StartUnavailableError

_PR_SET_PDEATHSIG = 1
# Looked up before the fork: between fork and exec, an import could wait for a lock that another thread held.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class StartFailedError(StartUnavailableError):
    """A part of the farm did not start. The text says why: in the part's own line, or by the end of its log."""


class Process:
    """A running child process with a log file, to which it appends."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._log_begin = output.tell()
            self._popen = subprocess.Popen(
                list(argv),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: a terminal's Ctrl-C goes to this process only, which then stops the parts in
                # order.
                start_new_session=True,
                # If this process is killed, the kernel sends the child SIGTERM.
                preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_until(self, condition: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `condition()` is true.

        Raises:
            StartFailedError: the process ends, or is not ready after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            # A process that has ended will never be ready: its log says why at once, not after the deadline.
            status = self._popen.poll()
            if status in set(ExitCode):
                reasons = [line for line in self._lines() if line.startswith("enginefarm")]
                raise StartFailedError("\n".join([*reasons, f"(complete log: {self.log})"]))
            if status is not None:
                raise StartFailedError(f"{self.name} ended with status {status}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise StartFailedError(f"{self.name} was not ready after {seconds:g} s:\n{self._tail()}")
            time.sleep(0.05)

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._popen.poll() is not None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal that ended it; None while it runs."""
        return self._popen.poll()

    def stop(self, *, seconds: float = 20) -> None:
        """Send SIGTERM, and SIGKILL if the process has not ended after `seconds`."""
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self._popen.kill()
        self._popen.wait()

    def _tail(self) -> str:
        return "\n".join([*self._lines()[-15:], f"(complete log: {self.log})"])

    def _lines(self) -> list[str]:
        """What this process has printed; earlier ones wrote into the same log."""
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            # The log can contain bytes of any program, and an error must not hide behind a decoding error.
            return log.read().decode(errors="replace").splitlines()
