"""Reading a log that is still being written, over a connection that may break."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator

import httpx

from enginefarm.client.backoff import Backoff
from enginefarm.client.connection import Connection, accepted
from enginefarm.contract.errors import FarmError, InvalidRequest

_LONGEST_LINE = 1 << 16  # characters; a toolchain that never ends its line is shown in pieces
_QUIET_SECONDS = 120.0  # a compiler may say nothing for minutes; after this the connection is tried anew
_NEXT_LOOK = 0.5  # seconds, after a stream ended before the build did


def log_lines(
    connection: Connection, path: str, *, backoff: Backoff, ended: Callable[[], bool] | None
) -> Iterator[str]:
    """Lines of the log at `path`, bytes that are no UTF-8 replaced.

    With `ended` the log is followed until that says that the build has ended: a farm that restarts
    ends its streams properly, and the log goes on afterwards.
    """
    lines, offset = _Lines(), 0
    while True:
        try:
            # Asked before the stream is read: whatever was written before the end is then in the stream.
            over = ended() if ended else True
            for chunk in _chunks(connection, path, offset, follow=ended is not None):
                offset += len(chunk)
                backoff.reset()
                yield from lines.of(chunk)
        except FarmError as error:
            # A silent compiler and a silent network look alike: ask again, and do not call it a failure.
            quiet = ended is not None and isinstance(error.__cause__, httpx.ReadTimeout)
            time.sleep(0 if quiet else backoff.after(error))
            continue
        if over:
            yield from lines.rest()
            return
        time.sleep(_NEXT_LOOK)


def _chunks(connection: Connection, path: str, offset: int, *, follow: bool) -> Iterator[bytes]:
    # Compressed, an offset would not count the bytes that arrive.
    with connection.stream(
        path,
        params={"follow": 1 if follow else None, "offset": offset or None},
        headers={"Accept-Encoding": "identity"},
        waits=_QUIET_SECONDS if follow else 0,
    ) as response:
        if offset and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise InvalidRequest(f"the log is shorter than the {offset} bytes that were read: it was replaced")
        yield from accepted(response).iter_raw()


class _Lines:
    """Bytes in, whole lines out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""

    def of(self, chunk: bytes) -> Iterator[str]:
        *whole, self._pending = (self._pending + self._decoder.decode(chunk)).split("\n")
        for line in whole:
            yield line.removesuffix("\r")
        while len(self._pending) > _LONGEST_LINE:
            yield self._pending[:_LONGEST_LINE]
            self._pending = self._pending[_LONGEST_LINE:]

    def rest(self) -> Iterator[str]:
        last = self._pending + self._decoder.decode(b"", final=True)
        if last:
            yield last
