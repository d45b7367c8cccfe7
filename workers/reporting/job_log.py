"""The log of one attempt: a file of bounded size with head and tail, sent to the catalogue while the stage runs.

The file has no name: a program that could reach it by a path would put a link in its place, and the worker would upload
the link's target as the log.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from enginefarm.contract.digest import CHUNK
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

    Args:
        folder: on the disk that the file takes its space from.
    """

    def __init__(self, folder: Path) -> None:
        # Unbuffered: `read` reads through the same descriptor.
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # `close` closes it
        self._lock = threading.Lock()
        self._size = 0
        self._sent = 0
        self._in_doubt = 0
        self._tail = bytearray()
        self._dropped = 0
        self._disk_full = False

    def say(self, text: str) -> None:
        """Write a line of the farm itself, with the time (UTC)."""
        # backslashreplace: a text may contain a file's name, which need not be UTF-8.
        self.write(f"[farm {datetime.now(UTC):%H:%M:%S}] {text}\n".encode(errors="backslashreplace"))

    def write(self, output: bytes) -> None:
        """Add output of a program: to the file while the head has room, then to the tail in memory."""
        with self._lock:
            room = HEAD_BYTES - self._size
            if room > 0:
                self._append(output[:room])
                output = output[room:]
            self._tail += output
            # One buffer, trimmed seldom: a piece may be a single byte, and each trim copies the whole tail.
            if len(self._tail) > 2 * TAIL_BYTES:
                self._trim_tail()

    def send(self, database: Database, claim: Claim) -> None:
        """Send to the catalogue what the file has and no earlier call sent.

        Raises:
            DatabaseUnavailable: the next call sends the same bytes again.
        """
        while True:
            # A piece whose commit was not answered is sent again as it was: the catalogue may have it already.
            piece = os.pread(self._file.fileno(), self._in_doubt or _PIECE_BYTES, self._sent)
            if not piece:
                return
            self._in_doubt = len(piece)
            with database.write() as session:
                logs.append(session, claim.key, claim.attempt, self._sent, piece)
            # Only after the commit, so that an outage repeats a piece rather than leaves a gap.
            self._sent += len(piece)
            self._in_doubt = 0

    def settle(self) -> None:
        """Write the tail to the file, after a line with the number of dropped bytes. More output may follow."""
        with self._lock:
            if self._tail:
                self._trim_tail()
                if self._dropped:
                    self._append(f"\n[farm] {self._dropped} bytes of output were dropped here\n".encode())
                self._append(self._tail)
                self._tail.clear()
                self._dropped = 0

    def read(self) -> Iterator[bytes]:
        """Yield the content of the file: what was written, but nothing that `settle` did not write yet."""
        position = 0
        while piece := os.pread(self._file.fileno(), CHUNK, position):
            yield piece
            position += len(piece)

    def close(self) -> None:
        """Close the file. The tail is lost unless `settle` wrote it."""
        self._file.close()

    def _trim_tail(self) -> None:
        """Drop all but the last TAIL_BYTES of the tail."""
        surplus = max(0, len(self._tail) - TAIL_BYTES)
        del self._tail[:surplus]
        self._dropped += surplus

    def _append(self, output: bytes | bytearray) -> None:
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
        unwritten.release()  # a bytearray cannot be cleared while a view of it exists
