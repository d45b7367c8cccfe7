"""The log of one attempt: a file that keeps head and tail, shown live through the catalogue."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from models.catalogue.database import Database
from models.lifecycle import logs
from models.lifecycle.leases import Claim

HEAD_BYTES = 32 << 20
TAIL_BYTES = 4 << 20
_PIECE = 1 << 18


class JobLog:
    """Written by the stage's thread, sent by the heartbeat's. The middle of an endless log is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._size = 0
        self._sent = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0
        self._full = False

    def say(self, text: str) -> None:
        """A line of the farm's own."""
        self.write(f"[farm {datetime.now(UTC):%H:%M:%S}] {text}\n".encode())

    def write(self, data: bytes) -> None:
        with self._lock:
            room = HEAD_BYTES - self._size
            if room > 0:
                self._append(data[:room])
                data = data[room:]
            if data:
                self._keep_tail(data)

    def send(self, database: Database, held: Claim) -> None:
        """Send what is new to the catalogue. Raises DatabaseUnavailable; nothing is lost, the next call sends it."""
        while data := self._unsent():
            with database.write() as session:
                logs.append(session, held.key, held.attempt, self._sent, data)
            self._sent += len(data)

    def settle(self) -> None:
        """Write the tail behind the head, with a word on what lies between. More may be written after it."""
        with self._lock:
            if self._tail:
                if self._dropped:
                    self._append(f"\n[farm] {self._dropped} bytes of output were dropped here\n".encode())
                self._append(b"".join(self._tail))
                self._tail.clear()
                self._tail_size = self._dropped = 0

    def close(self) -> None:
        self._file.close()

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left and not self._full:
                written = self._file.write(left) or 0
                self._size, left = self._size + written, left[written:]
        except OSError:  # a full disk must not keep the worker from telling so: the catalogue is elsewhere
            self._full = True
        self._dropped += len(left)

    def _keep_tail(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_size += len(data)
        while self._tail_size > TAIL_BYTES and len(self._tail) > 1:
            lost = len(self._tail.popleft())
            self._tail_size -= lost
            self._dropped += lost

    def _unsent(self) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self._sent)
            return stream.read(_PIECE)
