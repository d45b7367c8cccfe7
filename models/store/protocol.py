"""What the farm asks of a store: blobs named by their digest, checked on the way in and on the way out.

The rules that keep bytes honest are written here, once. A store brings only the primitives.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from enginefarm.contract.digest import Digest, read_chunks, verified
from enginefarm.contract.errors import FarmError, InvalidRequest
from enginefarm.transfer.atomic_file import write_atomically

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")

Watch = Callable[[int], None]


def ignore_progress(_: int) -> None:
    """A `Watch` for callers that need none."""


class Store(ABC):
    """Safe to share between threads. Blobs stream: memory does not grow with their size.

    Every method may raise StoreUnavailable, whose text says what to do and holds no secret. A method
    that is given something else than a digest raises InvalidRequest.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Make the folders or the bucket, where missing. For set-up: nothing else here creates them."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the store can be used right now. Answers within seconds and tries once."""

    @abstractmethod
    def stat(self, digest: Digest) -> int | None:
        """Size in bytes; None if there is no such blob."""

    @abstractmethod
    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        """Bytes from `start`, at most `length`, unchecked; nothing at or beyond the end. Close it if you stop early.

        Raises:
            NotFound: no such blob. It comes with the first chunk, for nothing happens before.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Remove the blob; nothing happens if there is none."""

    @abstractmethod
    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """Where anybody can read the blob for a while, ranges included, to be saved as `filename`.

        A URL, or a path of this farm's API. The blob is not looked for.

        Raises:
            InvalidRequest: `filename` is no plain file name.
            ValueError: `expires` is not between a second and a week.
        """

    @abstractmethod
    def list(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size, in no order. What comes or goes meanwhile may be missed."""

    @abstractmethod
    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        """Give the bytes their name once `chunks` has ended without an error and they are durable; else leave nothing.

        `chunks` raises IntegrityError at the latest instead of ending, if these are not the bytes of `digest`.
        """

    @abstractmethod
    def abort_stale(self, age: timedelta) -> int:
        """Remove what uploads that began longer ago than `age` left behind without a name; returns how many."""

    def put(
        self, source: Path, digest: Digest, size: int, watch: Watch = ignore_progress, *, anew: bool = False
    ) -> None:
        """Store a file. When this returns the blob is durable; putting it again costs one look.

        `watch` hears of bytes that have left, as a number each time, from any thread. What it raises ends the upload.
        `anew` writes it even so: what the store has under that name is known to be damaged.

        Raises:
            IntegrityError: `source` is not what `digest` and `size` say, or did not arrive as it left.
            FarmError: `source` cannot be read.
        """
        if anew or self.stat(digest) != size:
            self._write_file(source, digest, size, watch)

    def _write_file(self, source: Path, digest: Digest, size: int, watch: Watch) -> None:
        chunks = verified(_watched(file_chunks(source), watch), digest, size, what=str(source))
        self._write(chunks, digest, size)

    def put_stream(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        """Store what `chunks` brings, whatever is there already under that name.

        Raises:
            IntegrityError: they are not what `digest` and `size` say; nothing is kept of them.
        """
        self._write(verified(chunks, digest, size, what=f"blob {digest}"), digest, size)

    def fetch(self, digest: Digest, size: int, destination: Path) -> None:
        """Bring the blob to `destination`: whole, checked and durable, or not at all.

        Raises:
            NotFound: no such blob.
            IntegrityError: the store holds other bytes than the digest names.
            OSError: `destination` cannot be written.
        """
        with closing(self.read(digest)) as chunks:
            write_atomically(
                verified(chunks, digest, size, what=f"blob {digest}"), destination, staging=destination.parent
            )

    def verify(self, digest: Digest, size: int) -> None:
        """Read all of the blob again.

        Raises:
            NotFound: no such blob.
            IntegrityError: the store holds other bytes than the digest names.
        """
        with closing(self.read(digest)) as chunks:
            for _ in verified(chunks, digest, size, what=f"blob {digest}"):
                pass


def blob_name(digest: Digest) -> str:
    """`blobs/sha256/ab/<hex>`: the blob's name in every store. Raises InvalidRequest for anything but a digest."""
    if not (match := _DIGEST.fullmatch(digest)):
        raise InvalidRequest(f"{digest!r} is not a digest: expected 'sha256:' and 64 lower-case hex digits")
    return f"blobs/sha256/{match[1][:2]}/{match[1]}"


def blob_digest(name: str) -> Digest | None:
    """The digest that `name` stands for; None if it is not the name of a blob."""
    match = _BLOB_NAME.fullmatch(name)
    return f"sha256:{match[2]}" if match else None


def end_of_range(start: int, length: int | None) -> int | None:
    """Where a read ends, exclusive; None for wherever the blob ends. Raises ValueError for negative numbers."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"cannot read {length} bytes from byte {start}: expected no negative numbers")
    return None if length is None else start + length


def _watched(chunks: Iterator[bytes], watch: Watch) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        watch(len(chunk))


def file_chunks(source: Path) -> Iterator[bytes]:
    """Chunks of `source`. Its own troubles must not pass for the store's."""
    try:
        yield from read_chunks(source)
    except OSError as error:
        raise FarmError(f"{source} cannot be read: {error.strerror}") from error
