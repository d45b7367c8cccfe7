"""Cursors: where the next page of a listing begins, as opaque text."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from enginefarm.contract.errors import InvalidRequest
from models.catalogue.rows import BuildRow, RemovalRow

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%f"
_KEY = re.compile(r"[0-9a-f]{64}")


def to_cursor(number: int) -> str:
    """`number` is a row's sequence number."""
    return _encoded(str(number))


def next_cursor(rows: Sequence[BuildRow | RemovalRow], limit: int) -> str | None:
    """The cursor of the page after the first `limit` rows; None if they are the last.

    The query must ask for one row more than `limit`, which shows whether a page follows.
    """
    if len(rows) <= limit:
        return None
    return to_cursor(rows[limit - 1].seq)


def to_time_cursor(time: datetime, key: str) -> str:
    """For a listing by time and then by key, of rows without a sequence number."""
    return _encoded(f"{time.astimezone(UTC):{_TIME_FORMAT}} {key}")


def from_time_cursor(cursor: str) -> tuple[datetime, str]:
    """The time and the key of the last row of the page before.

    Raises:
        InvalidRequest: `to_time_cursor` made no such text.
    """
    time, _, key = _decoded(cursor).partition(" ")
    if time.isdecimal():
        raise InvalidRequest(
            f"?cursor={cursor[:50]!r} is of an earlier release of this farm: list again without a cursor"
        )
    try:
        begin = datetime.strptime(time, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise _unknown(cursor) from None
    if not _KEY.fullmatch(key):
        raise _unknown(cursor)
    return begin, key


def from_cursor(cursor: str) -> int:
    """
    Raises:
        InvalidRequest: `to_cursor` made no such text.
    """
    try:
        number = int(_decoded(cursor))
    except ValueError:
        raise _unknown(cursor) from None
    # Refused here: a number above the database's largest integer would be an error of the server.
    if not 0 <= number < 1 << 63:
        raise _unknown(cursor)
    return number


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        raise _unknown(cursor) from None


def _unknown(cursor: str) -> InvalidRequest:
    return InvalidRequest(f"?cursor={cursor[:50]!r} is no cursor of this farm: pass next_cursor unchanged")
