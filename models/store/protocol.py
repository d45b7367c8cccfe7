"""The interface of a store: blobs named by their SHA-256, verified when they are put and when they are fetched.

Verification is written here once. An implementation brings only the primitives, so it cannot forget to verify.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from enginefarm.contract import regular_files
from enginefarm.contract.digest import CHUNK, Digest, Watch, ignore_progress, verified
from enginefarm.contract.errors import FarmError, InvalidRequest
from enginefarm.contract.regular_files import RefusedFile
from enginefarm.transfer.atomic_file import write_atomically

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")


class Store(ABC):
    """A store of blobs. Safe to share between threads. Blobs stream: memory does not grow with their size.

    Every method may raise StoreUnavailable, whose text says what to do and contains no secret. A method that gets
    another string than a digest raises InvalidRequest.
    """

    @abstractmethod
    def prepare(self) -> None:
        """Create the folders or the bucket if they are missing. Only set-up calls this.

        No other method creates them: a volume that is not mounted must be an outage, not an empty store.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return if the store can be used now. Tries once and answers within seconds, for readiness probes."""

    def room(self) -> tuple[int, int] | None:
        """Return the bytes of the store's disk, and those of them that are free; None if it has no disk of its own."""
        return None

    @abstractmethod
    def stat(self, digest: Digest) -> int | None:
        """Return the size of the blob in bytes; None if there is no such blob."""

    @abstractmethod
    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        """Yield at most `length` bytes from `start`, unverified; nothing at or beyond the end of the blob.

        Close the generator if you stop early.

        Raises:
            NotFound: no such blob. Raised with the first chunk, because a generator does nothing before.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Remove the blob if it exists."""

    @abstractmethod
    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """Return a URL, or a path of this farm's API, that serves the blob to anybody until it expires.

        It serves ranges and proposes `filename` as the name to save to. Whether the blob exists is not checked.

        Raises:
            InvalidRequest: `filename` is no plain file name.
            ValueError: `expires` is not between a second and a week.
        """

    @abstractmethod
    def list(self) -> Iterator[tuple[Digest, int]]:
        """Yield every blob and its size in bytes, in no order. Changes during the listing may be missed."""

    @abstractmethod
    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        """Store `chunks`: name the blob after `chunks` ended without an error and the bytes are durable.

        If the bytes are not those of `digest`, `chunks` raises IntegrityError instead of ending. After an error nothing
        may be left under the blob's name.
        """

    @abstractmethod
    def abort_stale(self, age: timedelta) -> int:
        """Remove the remains of uploads that started longer than `age` ago and never finished; returns how many."""

    def put(
        self, source: Path, digest: Digest, size: int, watch: Watch = ignore_progress, *, anew: bool = False
    ) -> None:
        """Store a file. When this returns, the blob is durable. A blob that exists costs one `stat`.

        Args:
            size: of `source`, in bytes.
            watch: is told of the bytes that were sent.
            anew: write the blob even if it exists, because the stored one is known to be damaged.

        Raises:
            IntegrityError: `source` does not have this digest and size, or the store received other bytes.
            FarmError: `source` cannot be read.
        """
        if not anew and self.stat(digest) == size:
            return
        # Hash the file as it is now: it may have changed since its digest was computed.
        self._write(verified(file_chunks(source, watch), digest, size, what=str(source)), digest, size)

    def put_stream(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        """Store `chunks`, replacing a blob of this name.

        Raises:
            IntegrityError: the bytes do not have this digest and size; nothing of them is stored.
        """
        self._write(verified(chunks, digest, size, what=f"blob {digest}"), digest, size)

    def fetch(self, digest: Digest, size: int, destination: Path, watch: Watch = ignore_progress) -> None:
        """Write the blob to `destination`: complete, verified and durable, or not at all.

        Args:
            watch: is told of the bytes that were written.

        Raises:
            NotFound: no such blob.
            IntegrityError: the store holds other bytes than the digest names.
            OSError: `destination` cannot be written.
        """
        with closing(self.read(digest)) as chunks:
            write_atomically(
                verified(chunks, digest, size, what=f"blob {digest}", watch=watch),
                destination,
                staging=destination.parent,
            )

    def verify(self, digest: Digest, size: int) -> None:
        """Read the complete blob and compare it with its digest.

        Raises:
            NotFound: no such blob.
            IntegrityError: the store holds other bytes than the digest names.
        """
        with closing(self.read(digest)) as chunks:
            for _ in verified(chunks, digest, size, what=f"blob {digest}"):
                pass


def blob_name(digest: Digest) -> str:
    """Return `blobs/sha256/ab/<hex>`, the blob's name in every store.

    Raises:
        InvalidRequest: `digest` is not one, so it cannot lead to another file.
    """
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidRequest(f"{digest!r} is not a digest: expected 'sha256:' and 64 lower-case hex digits")
    return f"blobs/sha256/{match[1][:2]}/{match[1]}"


def blob_digest(name: str) -> Digest | None:
    """Return the digest of the blob with this name; None if it is not the name of a blob."""
    match = _BLOB_NAME.fullmatch(name)
    return f"sha256:{match[2]}" if match else None


def end_of_range(start: int, length: int | None) -> int | None:
    """Return the exclusive end of a read; None for the end of the blob.

    Raises:
        ValueError: a number is negative.
    """
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"cannot read {length} bytes from byte {start}: expected no negative numbers")
    return None if length is None else start + length


def file_chunks(source: Path, watch: Watch = ignore_progress) -> Iterator[bytes]:
    """Yield the content of `source`; `watch` is told of each chunk after the caller is done with it.

    Only a regular file is read: a program may have put a link or a named pipe in its place since it was hashed.

    Raises:
        FarmError: it cannot be read. An OSError would look like a failure of the store's folder.
    """
    try:
        with regular_files.opened(source.parent, source.name) as stream:
            while True:
                # Only reading is inside: an OSError of `watch` or of the consumer is not the file's.
                try:
                    chunk = stream.read(CHUNK)
                except OSError as error:
                    raise FarmError(f"{source} cannot be read: {error.strerror}") from error
                if not chunk:
                    return
                yield chunk
                watch(len(chunk))
    except RefusedFile as error:
        raise FarmError(f"{source} cannot be read: {error}") from error
