"""Read the log of a build, also while it is being written and over a connection that breaks."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypeAlias

from urllib3.exceptions import ReadTimeoutError

from enginefarm.client.connection import Connection
from enginefarm.client.retry import note_progress, retrying
from enginefarm.contract.errors import FarmError, InvalidRequest

Chunks: TypeAlias = Iterator[bytes]

_LONGEST_LINE = 1 << 16  # characters; a toolchain that never ends its line is shown in pieces
_QUIET_SECONDS = 120.0  # a compiler may print nothing for minutes; after this the connection is opened again
_NEXT_LOOK = 0.5  # seconds, after a stream ended before the build did


def log_lines(chunks: Chunks) -> Iterator[str]:
    """Yield the lines of a log that arrives in `chunks`; bytes that are not UTF-8 are replaced by U+FFFD."""
    splitter = _LineSplitter()
    for chunk in chunks:
        yield from splitter.lines_of(chunk)
    yield from splitter.last_line()


def log_chunks(connection: Connection, path: str, *, patience: float, ended: Callable[[], bool] | None) -> Chunks:
    """Yield the bytes of the log at `path`, as they arrive.

    Args:
        patience: seconds to keep trying while nothing arrives because the farm cannot be reached.
        ended: if given, the log is followed until this returns True, that is, until the build has ended. A farm that
            restarts ends its streams properly, so the end of a stream is not the end of the log.
    """
    offset = 0
    while True:
        is_complete = False
        for attempt in retrying(patience):
            with attempt:
                # Asked before the stream is read: whatever was written before the end is then in the stream.
                is_complete = ended() if ended else True
                try:
                    for chunk in _chunks(connection, path, offset, follow=ended is not None):
                        offset += len(chunk)
                        note_progress(attempt)
                        yield chunk
                except FarmError as error:
                    # A silent compiler and a silent network look alike: open the stream again, but do not count it
                    # as a failure.
                    if ended is None or not isinstance(error.__cause__, ReadTimeoutError):
                        raise
                    is_complete = False
        if is_complete:
            return
        time.sleep(_NEXT_LOOK)


def _chunks(connection: Connection, path: str, offset: int, *, follow: bool) -> Iterator[bytes]:
    params: dict[str, int] = {}
    waits = 0.0
    if offset:
        params["offset"] = offset
    if follow:
        params["follow"] = 1
        waits = _QUIET_SECONDS
    with connection.stream(path, params=params, headers={}, waits=waits) as response:
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise InvalidRequest(f"the log is shorter than the {offset} bytes that were read: it was replaced")
        # A download's digest reveals bytes that a proxy changed; nothing else would reveal them in a log.
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise FarmError("the log comes compressed, although it was asked for as it is: check any proxy on the way")
        yield from response.chunks


class _LineSplitter:
    """Turns chunks of bytes into complete lines without their ends."""

    def __init__(self) -> None:
        # Incremental, because a chunk may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""

    def lines_of(self, chunk: bytes) -> Iterator[str]:
        *lines, self._pending = (self._pending + self._decoder.decode(chunk)).split("\n")
        for line in lines:
            yield line.removesuffix("\r")
        while len(self._pending) > _LONGEST_LINE:
            yield self._pending[:_LONGEST_LINE]
            self._pending = self._pending[_LONGEST_LINE:]

    def last_line(self) -> Iterator[str]:
        """The text after the last line end, if there is any."""
        line = self._pending + self._decoder.decode(b"", final=True)
        if line:
            yield line
