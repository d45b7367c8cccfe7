"""SHA-256 digests in the form `sha256:<64 hex>`, and streaming ways to make them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from enginefarm.contract.errors import IntegrityError

CHUNK = 1 << 20  # bytes read at a time: large enough to hash at full speed, small enough to forget

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


def of_bytes(data: bytes) -> Digest:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> Digest:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def verified(chunks: Iterable[bytes], digest: Digest, size: int, *, what: str) -> Iterator[bytes]:
    """Pass `chunks` on; raise IntegrityError as soon as they are too long, or at the end if they differ.

    The last chunk is handed on before the digest is known: whoever consumes this must not give the
    bytes a name until the iterator ended without an error.
    """
    hasher, seen = hashlib.sha256(), 0
    for chunk in chunks:
        seen += len(chunk)
        if seen > size:
            raise IntegrityError(f"{what}: got more than the {size} bytes that its manifest names")
        hasher.update(chunk)
        yield chunk
    if seen != size:
        raise IntegrityError(f"{what}: got {seen} of {size} bytes")
    actual = "sha256:" + hasher.hexdigest()
    if not hmac.compare_digest(actual, digest):
        raise IntegrityError(f"{what}: expected {digest}, got {actual}")
