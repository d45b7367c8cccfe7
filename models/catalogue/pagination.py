"""Cursors: where the next page of a listing begins, as opaque text."""

from __future__ import annotations

import base64
import binascii

from enginefarm.contract.errors import InvalidRequest


def to_cursor(number: int) -> str:
    """`number` is a row's sequence number or an offset, whichever the listing uses."""
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> int:
    """
    Raises:
        InvalidRequest: `to_cursor` made no such text.
    """
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        number = -1
    if not 0 <= number < 1 << 63:  # the database's largest integer
        raise InvalidRequest(f"?cursor={cursor[:50]!r} is no cursor of this farm: pass next_cursor unchanged")
    return number
