"""Where the next page of a listing begins, as text that means nothing to its reader."""

from __future__ import annotations

import base64
import binascii

from enginefarm.contract.errors import InvalidRequest


def to_cursor(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> int:
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        number = -1
    if not 0 <= number < 1 << 63:
        raise InvalidRequest(f"?cursor={cursor[:50]!r} is not a cursor of this farm: pass next_cursor as it came")
    return number
