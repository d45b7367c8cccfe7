"""Read every time that PostgreSQL stores: 'infinity' and years beyond 9999 are valid there, and Python has neither.

A worker's account writes times into rows that everybody reads. Without this, one such time would make each reading of
the row an error.
"""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)


class BoundedTimestamptzLoader(TimestamptzLoader):
    """Reads a time outside of Python's range as the nearest time in it."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return _EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else _LATEST
