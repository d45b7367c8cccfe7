"""Read what is uploaded in parts into buffers that are used again, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock, Semaphore
from typing import BinaryIO, Self

from enginefarm.contract import regular_files
from enginefarm.contract.digest import Digest, verified
from enginefarm.contract.errors import FarmError
from enginefarm.contract.regular_files import RefusedFile


class PartBuffers:
    """Buffers of all uploads that share this object; each upload enters it as a context. Safe to share between threads.

    Args:
        most: buffers in use at once.
    """

    def __init__(self, most: int) -> None:
        self._slots = Semaphore(most)
        self._free: list[bytearray] = []
        self._uploads = 0
        self._lock = Lock()

    def __enter__(self) -> Self:
        with self._lock:
            self._uploads += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._uploads -= 1
            if not self._uploads:
                self._free.clear()  # an idle worker needs no memory for parts

    def take(self, length: int) -> bytearray:
        """Wait until a buffer may be used and return one of `length` bytes with any content."""
        self._slots.acquire()
        with self._lock:
            while self._free:
                buffer = self._free.pop()
                if len(buffer) == length:
                    return buffer
        return bytearray(length)

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer that nobody reads any more."""
        with self._lock:
            self._free.append(buffer)
        self._slots.release()


def file_parts(source: Path, digest: Digest, size: int, part_size: int, buffers: PartBuffers) -> Iterator[bytearray]:
    """Yield the content of `source` in parts of `part_size` bytes, the last one shorter; each buffer is the consumer's.

    Only a regular file is read: a program may have put a link or a named pipe in its place since it was hashed.

    Raises:
        IntegrityError: after the last part, if the bytes do not have this digest and size.
        FarmError: it cannot be read. An OSError would look like a failure of the store's folder.
    """
    try:
        with regular_files.opened(source.parent, source.name) as stream:
            yield from verified(_read_parts(stream, source, size, part_size, buffers), digest, size, what=str(source))
    except RefusedFile as error:
        raise FarmError(f"{source} cannot be read: {error}") from error


def stream_parts(chunks: Iterable[bytes], size: int, part_size: int, buffers: PartBuffers) -> Iterator[bytearray]:
    """Copy `chunks`, `size` bytes in all, into parts of `part_size` bytes; each buffer is the consumer's."""
    unsent = size
    part = bytearray()
    filled = 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if not filled:
                part = buffers.take(min(part_size, unsent))
            count = min(len(rest), len(part) - filled)
            part[filled : filled + count] = rest[:count]
            filled += count
            rest = rest[count:]
            if filled == len(part):
                yield part
                unsent -= filled
                filled = 0


def _read_parts(stream: BinaryIO, source: Path, size: int, part_size: int, buffers: PartBuffers) -> Iterator[bytearray]:
    unread = size
    while unread > 0:
        part = buffers.take(min(part_size, unread))
        try:
            count = _read(stream, source, part)
        except BaseException:
            buffers.give_back(part)
            raise
        if count < len(part):  # the file became shorter
            del part[count:]
            unread = 0
        unread -= count
        yield part
    # One byte more: a file that became longer is another file.
    following = bytearray(1)
    if _read(stream, source, following):
        yield following


def _read(stream: BinaryIO, source: Path, buffer: bytearray) -> int:
    # Only reading is inside: an OSError of the consumer is not the file's.
    try:
        return stream.readinto(buffer)  # type: ignore[attr-defined,no-any-return]  # a buffered reader has it
    except OSError as error:
        raise FarmError(f"{source} cannot be read: {error.strerror}") from error
