"""What a transfer tells its caller while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from enginefarm.contract.str_enum import StrEnum


class Activity(StrEnum):
    WAITING = "waiting for another pull"
    CHECKING = "checking existing files"
    FETCHING = "fetching"
    WRITING = "writing the bundle"
    SENDING = "sending"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    activity: Activity
    done: int  # bytes
    total: int  # bytes


OnProgress = Callable[[Progress], None]


class ByteMeter:
    """Count the bytes of all files of a transfer together, and tell the caller, from one thread at a time."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._total = total  # bytes
        self._on_progress = on_progress
        self._count = 0
        self._activity = Activity.CHECKING
        self._lock = threading.Lock()

    def begin(self, activity: Activity) -> None:
        self._activity = activity
        self.add(0)

    def add(self, count: int) -> None:
        """`count` is in bytes, and negative when bytes turned out to be wrong."""
        with self._lock:
            self._count += count
            if self._on_progress:
                # A directory that was complete already is done without any byte being counted.
                count_shown = self._total if self._activity is Activity.DONE else self._count
                self._on_progress(Progress(self._activity, count_shown, self._total))
