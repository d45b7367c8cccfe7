"""Cursors: where the next page of a listing begins, as opaque text."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from enginefarm.contract.errors import InvalidRequest
from models.catalogue.rows import BuildRow, RemovalRow


def to_cursor(number: int) -> str:
    """`number` is a row's sequence number or an offset, whichever the listing uses."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def next_cursor(rows: Sequence[BuildRow | RemovalRow], limit: int) -> str | None:
    """The cursor of the page after the first `limit` rows; None if they are the last.

    The query must ask for one row more than `limit`, which shows whether a page follows.
    """
    if len(rows) <= limit:
        return None
    return to_cursor(rows[limit - 1].seq)


def from_cursor(cursor: str) -> int:
    """
    Raises:
        InvalidRequest: `to_cursor` made no such text.
    """
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        number = -1
    # Refused here: a number above the database's largest integer would be an error of the server.
    if not 0 <= number < 1 << 63:
        raise InvalidRequest(f"?cursor={cursor[:50]!r} is no cursor of this farm: pass next_cursor unchanged")
    return number
