"""A file on its way: fetched in parts, in any order and several at once; hashed from its start as far as it is whole.

A file of one part grows like any other, and its length says how much is here. A larger one has its full length from
the start; which of its parts are here is said by the pull's journal.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from enginefarm.contract.digest import CHUNK
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry

_SYNCED_PARTS = 8  # between two times that what was hashed is brought to the disk


class Journal:
    """Which parts are whole, a line each, so that a killed pull goes on from there.

    It may claim what a power cut took back; the file's digest finds that out.
    """

    def __init__(self, path: Path, part_size: int) -> None:
        self._head = {"part_size": part_size}
        self._whole: dict[str, set[int]] = {}
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._lock = threading.Lock()
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def whole(self, path: str) -> set[int]:
        return set(self._whole.get(path, ()))

    def add(self, path: str, number: int) -> None:
        self._write([path, number])

    def forget(self, path: str) -> None:
        self._whole.pop(path, None)
        self._write([path, None])

    def _read(self) -> None:
        """What an earlier pull wrote; the last line may be torn. Parts of another size are no parts of ours."""
        lines = self._file.readall().splitlines() if os.fstat(self._file.fileno()).st_size else []
        if not lines or _parsed(lines[0]) != self._head:
            self._file.truncate(0)
            self._write(self._head)
            return
        for line in lines[1:]:
            match _parsed(line):
                case [str(path), int(number)]:
                    self._whole.setdefault(path, set()).add(number)
                case [str(path), None]:
                    self._whole.pop(path, None)

    def _write(self, record: object) -> None:
        with self._lock:
            self._file.write(json.dumps(record).encode() + b"\n")


def _parsed(line: bytes) -> object:
    with suppress(ValueError):
        return json.loads(line)
    return None


class PartialFile:
    """The bytes of one file that are here already.

    `on_bytes` is told how many bytes came, and a negative number when some turned out to be wrong. Parts may be
    written from several threads; one part only from one thread.
    """

    def __init__(
        self, target: Path, entry: FileEntry, journal: Journal, part_size: int, on_bytes: Callable[[int], None]
    ) -> None:
        self.entry = entry
        self.restarts = 0
        self._journal, self._part_size, self._on_bytes = journal, part_size, on_bytes
        self._count = max(1, -(-entry.size // part_size))
        self._at = [0] * self._count  # bytes of each part that are here
        self._done: set[int] = set()  # parts that nobody writes to any more: only these may be hashed
        self._lock = threading.Lock()
        self._hashing = False
        self._hasher, self._hashed = hashlib.sha256(), 0  # of the unbroken start; in parts
        # Never through a link: somebody may have laid one where this file is about to be.
        self._descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        self._take_up()

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def parts(self) -> range:
        return range(self._count)

    def size_of(self, number: int) -> int:
        return min(self._part_size, self.entry.size - number * self._part_size)

    def position(self, number: int) -> int:
        """Where in the file the next byte of this part goes."""
        return number * self._part_size + self._at[number]

    def end(self, number: int) -> int:
        return number * self._part_size + self.size_of(number)

    def is_whole(self, number: int) -> bool:
        return self._at[number] == self.size_of(number)

    def append(self, number: int, chunk: bytes) -> None:
        """The next bytes of a part."""
        written = 0
        while written < len(chunk):
            written += os.pwrite(self._descriptor, memoryview(chunk)[written:], self.position(number) + written)
        self._at[number] += len(chunk)
        self._on_bytes(len(chunk))

    def begin_again(self, number: int) -> None:
        """Forget what came of this part."""
        self._on_bytes(-self._at[number])
        self._at[number] = 0
        if self._count == 1:
            os.ftruncate(self._descriptor, 0)

    def part_done(self, number: int) -> None:
        """Its answer ended well: whoever fetched it writes to it no more.

        A part whose last byte is here is not done yet: what its answer says next may show that it is wrong.
        """
        if self._count > 1:
            self._journal.add(self.entry.path, number)
        with self._lock:
            self._done.add(number)

    def check(self, stopped: Callable[[], bool]) -> bool:
        """Hash on as far as the parts are done. True for whoever gets to the end: the file is right and durable.

        Raises:
            IntegrityError: it is not.
        """
        with self._lock:
            if self._hashing:
                return False  # whoever hashes comes to this part too, or has come to the end
            self._hashing = True
        while self._hashed < self._count:
            with self._lock:
                if stopped() or self._hashed not in self._done:
                    self._hashing = False
                    return False
            self._hash(self._hashed)
            self._hashed += 1
            if self._hashed % _SYNCED_PARTS == 0:
                os.fdatasync(self._descriptor)  # while others fetch: little is left to wait for at the end
        self._finish()
        return True

    def restart(self) -> None:
        """Its bytes were wrong: forget all of them."""
        self.restarts += 1
        self._on_bytes(-sum(self._at))
        self._journal.forget(self.entry.path)
        self._at = [0] * self._count
        self._done.clear()
        self._hasher, self._hashed, self._hashing = hashlib.sha256(), 0, False
        if self._count == 1:
            os.ftruncate(self._descriptor, 0)

    def _hash(self, number: int) -> None:
        start, end = number * self._part_size, self.end(number)
        while start < end:
            chunk = os.pread(self._descriptor, min(CHUNK, end - start), start)
            if not chunk:
                raise IntegrityError(f"{self.entry.path}: somebody shortened it while it was fetched")
            self._hasher.update(chunk)
            start += len(chunk)

    def _finish(self) -> None:
        actual = "sha256:" + self._hasher.hexdigest()
        if not hmac.compare_digest(actual, self.entry.digest):
            raise IntegrityError(f"{self.entry.path}: expected {self.entry.digest}, got {actual}")
        os.fsync(self._descriptor)

    def _take_up(self) -> None:
        """What an earlier try left."""
        size = os.fstat(self._descriptor).st_size
        if self._count == 1:
            if size > self.entry.size:  # more bytes than the file has are none of its bytes
                os.ftruncate(self._descriptor, size := 0)
            self._at[0] = size
        elif size == self.entry.size:
            for number in self._journal.whole(self.entry.path) & set(self.parts):
                self._at[number] = self.size_of(number)
        else:
            self._journal.forget(self.entry.path)
            os.ftruncate(self._descriptor, self.entry.size)
        self._done = {number for number in self.parts if self.is_whole(number)}
        self._on_bytes(sum(self._at))
