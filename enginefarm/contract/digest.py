"""SHA-256 digests in the form `sha256:<64 hex>`: of bytes, of files, and of streams."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

from pydantic import StringConstraints

from enginefarm.contract.errors import IntegrityError

# Bytes read at a time: large enough to hash at full speed, small enough that many streams fit in memory.
CHUNK = 1 << 20

# Called from any thread with the number of bytes that were read or sent since the last call. An exception ends the
# reading or sending.
Watch = Callable[[int], None]

Chunk = TypeVar("Chunk", bytes, bytearray)

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def ignore_progress(_: int) -> None:
    """A `Watch` for callers that need none."""


def of_bytes(content: bytes) -> Digest:
    """Return the digest of `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def of_file(path: Path, watch: Watch = ignore_progress) -> Digest:
    """Return the digest of a file's content, read in pieces. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return of_stream(stream, watch)[0]


def of_stream(stream: BinaryIO, watch: Watch = ignore_progress, *, longest: int | None = None) -> tuple[Digest, int]:
    """Return the (digest, length in bytes) of what is left of `stream`.

    Raises:
        IntegrityError: it is longer than `longest`: a file that grows as fast as it is read has no end.
        OSError: it cannot be read.
    """
    hasher = hashlib.sha256()
    length = 0
    for chunk in iter(partial(stream.read, CHUNK), b""):
        length += len(chunk)
        if longest is not None and length > longest:
            raise IntegrityError(f"a file is longer than {longest} bytes")
        hasher.update(chunk)
        watch(len(chunk))
    return f"sha256:{hasher.hexdigest()}", length


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content in pieces of CHUNK bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        chunk = stream.read(CHUNK)
        while chunk:
            yield chunk
            chunk = stream.read(CHUNK)


def verified(
    chunks: Iterable[Chunk], digest: Digest, size: int, *, what: str, watch: Watch = ignore_progress
) -> Iterator[Chunk]:
    """Yield `chunks`, and check that together they have `size` bytes and this digest.

    Every chunk is yielded before the digest is known. The consumer must not give the bytes their final name until
    the iterator has ended without an error.

    Args:
        what: names the bytes in error texts: a path, or a digest.
        watch: is told of each chunk after the consumer is done with it.

    Raises:
        IntegrityError: after too many bytes, or at the end if there are too few or they have another digest.
    """
    hasher = hashlib.sha256()
    length = 0  # bytes
    for chunk in chunks:
        length += len(chunk)
        # Checked for each chunk, so that an endless stream cannot fill the disk.
        if length > size:
            raise IntegrityError(f"{what}: got more than the {size} bytes that its manifest names")
        hasher.update(chunk)
        yield chunk
        watch(len(chunk))
    if length != size:
        raise IntegrityError(f"{what}: got {length} of {size} bytes")
    actual = "sha256:" + hasher.hexdigest()
    if not hmac.compare_digest(actual, digest):
        raise IntegrityError(f"{what}: expected {digest}, got {actual}")
