"""SHA-256 digests in the form `sha256:<64 hex>`: of bytes, of files, and of streams."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from enginefarm.contract.errors import IntegrityError

# Bytes read at a time: large enough to hash at full speed, small enough that many streams fit in memory.
CHUNK = 1 << 20

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def of_bytes(content: bytes) -> Digest:
    """Return the digest of `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def of_file(path: Path) -> Digest:
    """Return the digest of a file's content, read in pieces. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's content in pieces of CHUNK bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as stream:
        chunk = stream.read(CHUNK)
        while chunk:
            yield chunk
            chunk = stream.read(CHUNK)


def verified(chunks: Iterable[bytes], digest: Digest, size: int, *, what: str) -> Iterator[bytes]:
    """Yield `chunks`, and check that together they have `size` bytes and this digest.

    Every chunk is yielded before the digest is known. The consumer must not give the bytes their final name until
    the iterator has ended without an error.

    Args:
        what: names the bytes in error texts: a path, or a digest.

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
    if length != size:
        raise IntegrityError(f"{what}: got {length} of {size} bytes")
    actual = "sha256:" + hasher.hexdigest()
    if not hmac.compare_digest(actual, digest):
        raise IntegrityError(f"{what}: expected {digest}, got {actual}")
