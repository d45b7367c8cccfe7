"""The log of one attempt: a file of bounded size with head and tail, sent to the catalogue while the stage runs."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from models.catalogue.database import Database
from models.lifecycle import logs
from models.lifecycle.leases import Claim

# The head has the program's arguments and first warnings, the tail the reason of a failure.
HEAD_BYTES = 32 << 20
TAIL_BYTES = 4 << 20
_PIECE_BYTES = 1 << 18  # of one transaction: the writer of SQLite waits no longer than for this


class JobLog:
    """A log that the stage's thread writes and the heartbeat's thread sends.

    Output behind the first HEAD_BYTES stays in memory, its last TAIL_BYTES only, until `settle` writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Unbuffered: `send` reads the file through a descriptor of its own.
        self._file = path.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._size = 0
        self._sent = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._dropped = 0
        self._disk_full = False

    def say(self, text: str) -> None:
        """Write a line of the farm itself, with the time (UTC)."""
        self.write(f"[farm {datetime.now(UTC):%H:%M:%S}] {text}\n".encode())

    def write(self, output: bytes) -> None:
        """Add output of a program: to the file while the head has room, then to the tail in memory."""
        with self._lock:
            room = HEAD_BYTES - self._size
            if room > 0:
                self._append(output[:room])
                output = output[room:]
            if not output:
                return
            self._tail.append(output)
            self._tail_size += len(output)
            # The newest piece always stays, even if it alone is longer than the tail.
            while self._tail_size > TAIL_BYTES and len(self._tail) > 1:
                dropped = len(self._tail.popleft())
                self._tail_size -= dropped
                self._dropped += dropped

    def send(self, database: Database, claim: Claim) -> None:
        """Send to the catalogue what the file has and no earlier call sent.

        Raises:
            DatabaseUnavailable: the next call sends the same bytes again.
        """
        while True:
            with self.path.open("rb") as stream:
                stream.seek(self._sent)
                piece = stream.read(_PIECE_BYTES)
            if not piece:
                return
            with database.write() as session:
                logs.append(session, claim.key, claim.attempt, self._sent, piece)
            # Only after the commit, so that an outage repeats a piece rather than leaves a gap.
            self._sent += len(piece)

    def settle(self) -> None:
        """Write the tail to the file, after a line with the number of dropped bytes. More output may follow."""
        with self._lock:
            if self._tail:
                if self._dropped:
                    self._append(f"\n[farm] {self._dropped} bytes of output were dropped here\n".encode())
                self._append(b"".join(self._tail))
                self._tail.clear()
                self._tail_size = self._dropped = 0

    def close(self) -> None:
        """Close the file. The tail is lost unless `settle` wrote it."""
        self._file.close()

    def _append(self, output: bytes) -> None:
        """Write to the file, as much as the disk takes, and count the other bytes as dropped."""
        unwritten = memoryview(output)
        try:
            # An unbuffered write may be short.
            while unwritten and not self._disk_full:
                written = self._file.write(unwritten) or 0
                self._size += written
                unwritten = unwritten[written:]
        except OSError:
            # A full disk must not fail the attempt here: the worker reports it to the catalogue, which is elsewhere.
            self._disk_full = True
        self._dropped += len(unwritten)
