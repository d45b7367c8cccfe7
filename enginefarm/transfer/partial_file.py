"""A file that is being downloaded in parts, in any order and several at once, and hashed from its start as they come.

A file of one part grows like any other file, and its length says how much has arrived. A larger one has its full
length from the start; the pull's journal says which of its parts have arrived.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from typing_extensions import Self

from enginefarm.contract.digest import CHUNK
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry

_PARTS_PER_SYNC = 8  # of 16 MiB by default: little is left to sync at the end, and the disk is not asked all the time

# Never through a link: somebody may have put one where a file is about to be. Never inherited by a child process.
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Journal:
    """The parts that have arrived, one JSON line each, so that a killed pull goes on from there.

    The first line states the part size. After it, `[path, number]` records a part and `[path, null]` forgets all parts
    of a file. Nothing is synced: after a power cut a line may name a part whose bytes are lost, and the file's digest
    reveals that.
    """

    def __init__(self, path: Path, part_size: int) -> None:
        self._recorded: dict[str, set[int]] = {}
        self._file = os.fdopen(os.open(path, _OPEN_FLAGS | os.O_APPEND, 0o666), "r+b", buffering=0)
        self._lock = threading.Lock()
        header = {"part_size": part_size}
        lines = self._file.readall().splitlines()
        if not lines or _parsed(lines[0]) != header:
            # Parts of another size begin elsewhere in the file: they are of no use.
            self._file.truncate(0)
            self._append(header)
            return
        for line in lines[1:]:
            match _parsed(line):
                case [str(path_in_engine), int(number)]:
                    self._recorded.setdefault(path_in_engine, set()).add(number)
                case [str(path_in_engine), None]:
                    self._recorded.pop(path_in_engine, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def recorded(self, path: str) -> set[int]:
        """Numbers of the parts that an earlier pull recorded for the file `path`."""
        return set(self._recorded.get(path, ()))

    def add(self, path: str, number: int) -> None:
        self._append([path, number])

    def forget(self, path: str) -> None:
        self._recorded.pop(path, None)
        self._append([path, None])

    def _append(self, record: object) -> None:
        with self._lock:
            self._file.write(json.dumps(record).encode() + b"\n")


def _parsed(line: bytes) -> object:
    """None if it is no JSON: a killed pull may leave half a line at the end."""
    try:
        return json.loads(line)
    except ValueError:
        return None


class PartialFile:
    """The bytes of one file that have arrived.

    Parts may be written from several threads, each part from one thread only.

    Args:
        target: where the file is written. Bytes that an earlier pull left there are kept.
        part_size: bytes; the last part may be shorter.
        on_bytes: called with the number of bytes that arrived, and with a negative number when some were discarded.
    """

    def __init__(
        self, target: Path, entry: FileEntry, journal: Journal, part_size: int, on_bytes: Callable[[int], None]
    ) -> None:
        self.entry = entry
        self.restarts = 0
        self._journal, self._part_size, self._on_bytes = journal, part_size, on_bytes
        self._part_count = max(1, -(-entry.size // part_size))
        self._arrived = [0] * self._part_count  # bytes of each part
        self._finished: set[int] = set()  # parts that no thread writes to any more: only these may be hashed
        self._lock = threading.Lock()
        self._is_hashing = False
        self._hasher = hashlib.sha256()  # of the first `_hashed_parts` parts
        self._hashed_parts = 0
        self._descriptor = os.open(target, _OPEN_FLAGS, 0o666)

        # Count what an earlier pull left in the file.
        size = os.fstat(self._descriptor).st_size
        if self._part_count == 1:
            if size > entry.size:  # a longer file is another file
                os.ftruncate(self._descriptor, 0)
                size = 0
            self._arrived[0] = size
        elif size == entry.size:
            for number in journal.recorded(entry.path) & set(self.part_numbers):
                self._arrived[number] = self.end(number) - number * part_size
        else:
            # A new file, or one of another size, in which the recorded parts are not where they should be.
            journal.forget(entry.path)
            os.ftruncate(self._descriptor, entry.size)
        self._finished.update(number for number in self.part_numbers if self.is_complete(number))
        on_bytes(sum(self._arrived))

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def part_numbers(self) -> range:
        return range(self._part_count)

    def position(self, number: int) -> int:
        """The offset in the file at which the next byte of this part goes."""
        return number * self._part_size + self._arrived[number]

    def end(self, number: int) -> int:
        """The offset in the file after the last byte of this part."""
        return min((number + 1) * self._part_size, self.entry.size)

    def is_complete(self, number: int) -> bool:
        return self.position(number) == self.end(number)

    def append(self, number: int, chunk: bytes) -> None:
        """Write the next bytes of a part."""
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._descriptor, memoryview(chunk)[written:], self.position(number) + written)
        self._arrived[number] += len(chunk)
        self._on_bytes(len(chunk))

    def discard_part(self, number: int) -> None:
        self._on_bytes(-self._arrived[number])
        self._arrived[number] = 0
        if self._part_count == 1:
            os.ftruncate(self._descriptor, 0)

    def finish_part(self, number: int) -> None:
        """The response with this part ended well: its thread writes to it no more.

        A part whose last byte has arrived is not finished yet. What its response says next may show that it is wrong.
        """
        if self._part_count > 1:
            self._journal.add(self.entry.path, number)
        with self._lock:
            self._finished.add(number)

    def verify(self, is_stopped: Callable[[], bool]) -> bool:
        """Hash on, as far as the parts are finished. True for the one thread that reaches the end: the file is right
        and durable.

        Raises:
            IntegrityError: the file has another digest than its entry.
        """
        with self._lock:
            if self._is_hashing:
                return False  # the thread that is hashing reaches this part, too, or has reached the end
            self._is_hashing = True
        while self._hashed_parts < self._part_count:
            with self._lock:
                # Under the same lock as `finish_part`: else a part that is finished between this look and the reset
                # of the flag would be hashed by nobody.
                if is_stopped() or self._hashed_parts not in self._finished:
                    self._is_hashing = False
                    return False
            self._hash_part(self._hashed_parts)
            self._hashed_parts += 1
            if self._hashed_parts % _PARTS_PER_SYNC == 0:
                os.fdatasync(self._descriptor)  # while other threads fetch
        actual = "sha256:" + self._hasher.hexdigest()
        if not hmac.compare_digest(actual, self.entry.digest):
            raise IntegrityError(f"{self.entry.path}: expected {self.entry.digest}, got {actual}")
        os.fsync(self._descriptor)
        return True

    def restart(self) -> None:
        """Discard all bytes: some were wrong, and the digest does not say which."""
        self.restarts += 1
        self._on_bytes(-sum(self._arrived))
        self._journal.forget(self.entry.path)
        self._arrived = [0] * self._part_count
        self._finished.clear()
        self._hasher = hashlib.sha256()
        self._hashed_parts = 0
        self._is_hashing = False
        if self._part_count == 1:
            os.ftruncate(self._descriptor, 0)

    def _hash_part(self, number: int) -> None:
        # Read back from the file, not taken from the network: what is hashed is what is served later.
        offset = number * self._part_size
        end = self.end(number)
        while offset < end:
            chunk = os.pread(self._descriptor, min(CHUNK, end - offset), offset)
            if not chunk:
                raise IntegrityError(f"{self.entry.path}: another program shortened it while it was fetched")
            self._hasher.update(chunk)
            offset += len(chunk)
