"""A limit in bytes per second, shared by all connections of a pull."""

from __future__ import annotations

import threading
import time


class RateLimit:
    """Safe to share between threads."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()  # when the bytes that were taken so far are paid for
        self._lock = threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        """Return when `count` more bytes are within the limit, or `stop` is set."""
        with self._lock:
            now = time.monotonic()
            # Time in which nothing was taken is not saved up: a stalled line would be followed by a burst.
            self._free_at = max(self._free_at, now) + count / self._rate
            pause = self._free_at - now
        # Outside the lock, so that other connections can reserve their share meanwhile.
        stop.wait(pause)
