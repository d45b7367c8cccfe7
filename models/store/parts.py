"""A checked stream of chunks, as the file object that the SDK reads the parts of an upload from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator


class PartStream(io.RawIOBase):
    """Holds each part back until a byte behind it is seen or the chunks have ended without an error.

    So the last part is never sent, and the object never gets its name, when the chunks turn out to be wrong.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self._md5s: list[bytes] = []
        self._fill(1)  # of an empty object no part is ever read

    def read(self, size: int = -1) -> bytes:
        """The next part of exactly `size` bytes, or all that is left. Raises what the chunks raise."""
        if size < 0:
            raise io.UnsupportedOperation("parts have a size")
        self._fill(size + 1)
        with memoryview(self._buffer) as view:
            part = bytes(view[:size])
        del self._buffer[:size]
        self._md5s.append(_md5(part))
        return part

    @property
    def etag(self) -> str:
        """What a server that follows the usual form says of the object, once every part was read by one `read`."""
        if len(self._md5s) > 1:
            return f"{_md5(b''.join(self._md5s)).hex()}-{len(self._md5s)}"
        return (self._md5s or [_md5(b"")])[0].hex()

    def _fill(self, wanted: int) -> None:
        while len(self._buffer) < wanted and (chunk := next(self._chunks, None)) is not None:
            self._buffer += chunk


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
