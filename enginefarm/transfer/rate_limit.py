"""A bound on bytes per second, shared by all connections of a pull."""

from __future__ import annotations

import threading
import time


class RateLimit:
    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        """Return when `count` more bytes are within the bound, or `stop` is set."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._rate
            pause = self._free_at - now
        stop.wait(pause)
