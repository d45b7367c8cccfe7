"""A process of the farm, kept running as a supervisor would: whatever ends it, it is started again a moment later."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from local.process import Process

_PAUSE = 0.5  # seconds until it is started again
_PATIENCE = 90.0  # seconds from SIGTERM until it must have ended


class Kept:
    """Started at once, not waited for. `ready` looks at the log of this start and says whether it does its work.

    Args:
        argv: the program.
        logs: a folder; every start writes a log of its own there.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], logs: Path, ready: Callable[[Path], bool]
    ) -> None:
        self.name = name
        self.deaths: list[str] = []  # by itself, after it was ready
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
        """It does its work, and no fault is on its way through it."""
        if self._told_at or self._thaws_at or self._back_at or self._process.ended():
            return False
        self._was_ready = self._was_ready or self._ready(self._process.log)
        return self._was_ready

    def kill(self) -> None:
        self._process.kill()
        self._back_at = time.monotonic() + _PAUSE

    def tell_to_stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self._told_at = time.monotonic()

    def freeze(self, seconds: float) -> None:
        """It alone, not what it started."""
        os.kill(self.pid, signal.SIGSTOP)
        self._thaws_at = time.monotonic() + seconds

    def descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def tend(self) -> None:
        """Do what is due: thaw it, insist on its end, start it again."""
        now = time.monotonic()
        if self._thaws_at and now >= self._thaws_at:
            self.thaw()
        if self._told_at and now > self._told_at + _PATIENCE:
            self.deaths.append(f"{self.name} did not stop within {_PATIENCE:.0f} s of SIGTERM: {self._process.log}")
            self.kill()
        if self._back_at and now >= self._back_at:
            self._start()
        elif not self._back_at and self._process.ended():
            if self._was_ready and not self._told_at:
                self.deaths.append(f"{self.name} ended by itself: {self._process.log}")
            self._back_at = now + _PAUSE

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._thaws_at = 0.0

    def close(self) -> None:
        if self._thaws_at:
            self.thaw()
        self._process.stop()

    def _start(self) -> None:
        self._starts += 1
        self._told_at = self._thaws_at = self._back_at = 0.0
        self._was_ready = False
        log = self._logs / f"{self.name}-{self._starts}.log"
        self._process = Process(self.name, self._argv, self._environment, log)
