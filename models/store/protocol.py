"""What every store can do. A blob is named by its SHA-256, so writing one twice is harmless and reading one
is always checkable; no store is trusted to say which of two writers was first."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

from enginefarm.digest import Digest, verified


class Store(Protocol):
    """Streams both ways and never holds a whole file in memory. Safe to call from many threads.

    Every method raises StoreUnavailable when the store does not answer; it names no credential.
    """

    def prepare(self) -> None:
        """Make the bucket or the folders, if they are not there."""
        ...

    def put(self, source: Path, digest: Digest, size: int) -> None:
        """Upload and verify. Afterwards the blob is durable. One that is already there is not sent again.

        Raises:
            IntegrityError: `source` is not what `digest` and `size` say, or the store kept something else;
                nothing is visible under the name.
        """
        ...

    def put_bytes(self, data: bytes) -> Digest: ...

    def stat(self, digest: Digest) -> int | None:
        """Bytes of the blob, None if it is not there."""
        ...

    def read(self, digest: Digest, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` on, unverified: a range has no digest of its own.

        Raises:
            NotFound
        """
        ...

    def fetch(self, digest: Digest, size: int, destination: Path) -> None:
        """Download to `destination`, which appears whole and verified or not at all.

        Raises:
            IntegrityError, NotFound
        """
        ...

    def verify(self, digest: Digest, size: int) -> None:
        """Read every byte of the blob.

        Raises:
            IntegrityError, NotFound
        """
        ...

    def delete(self, digest: Digest) -> None:
        """Remove the blob; one that is not there is fine."""
        ...

    def list(self) -> Iterator[tuple[Digest, int]]:
        """Every blob and its size in bytes, in no order."""
        ...

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """A URL that serves the blob, ranges included, to anybody who holds it, for so long."""
        ...

    def ping(self) -> None: ...


def object_name(digest: Digest) -> str:
    """`blobs/sha256/ab/ab…`: two levels, because some file systems and some servers dislike a million siblings."""
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value[:2]}/{value}"


def digest_of(name: str) -> Digest:
    """The digest that an object is named by."""
    return "sha256:" + name.rpartition("/")[2]


@contextmanager
def new_file(destination: Path) -> Iterator[BinaryIO]:
    """A file beside `destination` that takes its name, durably, when the block ends without an error."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".partial-", dir=destination.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(destination)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, must survive a power cut
    finally:
        os.close(folder)


def fetch_verified(store: Store, digest: Digest, size: int, destination: Path) -> None:
    with new_file(destination) as stream:
        for chunk in verified(store.read(digest), digest, size, what=destination.name):
            stream.write(chunk)


def verify_all(store: Store, digest: Digest, size: int) -> None:
    for _ in verified(store.read(digest), digest, size, what=digest):
        pass
