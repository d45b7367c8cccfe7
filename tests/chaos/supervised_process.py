"""A process of the farm under supervision: after it ends for any reason, it starts again half a second later."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from local.process import Process

_RESTART_SECONDS = 0.5  # from its end until it starts again
_STOP_SECONDS = 90.0  # from SIGTERM until it must have ended


class SupervisedProcess:
    """Starts the program at once and does not wait for it.

    Args:
        argv: the program and its arguments.
        logs: a folder; every start writes its own log file there.
        ready: given the log file of the current start, returns True once the process does its work.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], logs: Path, ready: Callable[[Path], bool]
    ) -> None:
        self.name = name
        self.unexpected_ends: list[str] = []  # ends that no fault caused, after it was ready
        self._argv, self._environment, self._logs, self._ready = argv, environment, logs, ready
        self._starts = 0
        self._told_at = self._thaws_at = self._back_at = 0.0
        self._was_ready = False
        self._process: Process
        self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def calm(self) -> bool:
        """True if it does its work and no fault is in progress on it."""
        if self._stop_requested_at or self._thaws_at or self._restart_at or self._process.ended():
            return False
        self._was_ready = self._was_ready or self._ready(self._process.log)
        return self._was_ready

    def kill(self) -> None:
        self._process.kill()
        self._restart_at = time.monotonic() + _RESTART_SECONDS

    def request_stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self._stop_requested_at = time.monotonic()

    def freeze(self, seconds: float) -> None:
        """Stop this process with SIGSTOP, but not its children."""
        os.kill(self.pid, signal.SIGSTOP)
        self._thaws_at = time.monotonic() + seconds

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def tend(self) -> None:
        """Do what is due now: thaw it, kill it if it ignored SIGTERM, start it again."""
        now = time.monotonic()
        if self._thaws_at and now >= self._thaws_at:
            self.thaw()
        if self._stop_requested_at and now > self._stop_requested_at + _STOP_SECONDS:
            self.unexpected_ends.append(
                f"{self.name} did not stop within {_STOP_SECONDS:.0f} s of SIGTERM: {self._process.log}"
            )
            self.kill()
        if self._restart_at and now >= self._restart_at:
            self._start()
        elif not self._restart_at and self._process.ended():
            if self._was_ready and not self._stop_requested_at:
                self.unexpected_ends.append(f"{self.name} ended by itself: {self._process.log}")
            self._restart_at = now + _RESTART_SECONDS

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._thaws_at = 0.0

    def close(self) -> None:
        if self._thaws_at:
            self.thaw()
        self._process.stop()

    def _start(self) -> None:
        self._starts += 1
        self._stop_requested_at = self._thaws_at = self._restart_at = 0.0
        self._was_ready = False
        log = self._logs / f"{self.name}-{self._starts}.log"
        self._process = Process(self.name, self._argv, self._environment, log)
