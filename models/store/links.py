"""Links that let whoever holds one read one blob for a while: how they are signed and checked."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote, urlencode

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import Forbidden, InvalidRequest

LONGEST = timedelta(days=7)  # what S3 grants
_SHORTEST_SECRET = 16  # bytes


class Links:
    """Links to blobs of a folder store, which the API serves at `/v1/blobs/{digest}`.

    Args:
        secret: the same in every API process; at least 16 bytes.
        clock: seconds since 1970.
    """

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < _SHORTEST_SECRET:
            raise ValueError(f"the secret that signs links has {len(secret)} bytes: use {_SHORTEST_SECRET} or more")
        self._secret = secret
        self._clock = clock

    def make(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """Path and query of a link that is good for the duration `expires`.

        Raises:
            InvalidRequest: `filename` is no plain file name.
            ValueError: `expires` is not between a second and a week.
        """
        until = int(self._clock()) + seconds(expires)
        signature = self._sign(digest, plain(filename), until)
        return f"/v1/blobs/{digest}?{urlencode({'filename': filename, 'expires': until, 'signature': signature})}"

    def check(self, digest: Digest, *, filename: str, expires: int, signature: str) -> None:
        """Raise Forbidden unless `make` gave out exactly this link and its time (`expires`, since 1970) is not over."""
        if not hmac.compare_digest(self._sign(digest, filename, expires).encode(), signature.encode()):
            raise Forbidden("this link was not made by this farm, or was changed: ask the farm for a new one")
        if self._clock() >= expires:
            raise Forbidden("this link has expired: ask the farm for a new one")

    def _sign(self, digest: Digest, filename: str, expires: int) -> str:
        # The filename comes last: whatever it holds, it cannot pass for another field.
        message = f"enginefarm blob link 1\n{digest}\n{expires}\n{filename}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()


def seconds(expires: timedelta) -> int:
    """Whole seconds that a link is good for. Raises ValueError unless that is between a second and a week."""
    if not timedelta(seconds=1) <= expires <= LONGEST:
        raise ValueError(f"a link cannot be good for {expires}: expected between one second and {LONGEST}")
    return int(expires.total_seconds())


def attachment(filename: str) -> str:
    """`filename` as a Content-Disposition (RFC 6266). Raises InvalidRequest for anything but a plain file name."""
    plain(filename)
    if filename.isascii() and not set('"\\%').intersection(filename):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


def plain(filename: str) -> str:
    """`filename` itself. Raises InvalidRequest if it could be a path or upset a header."""
    if filename in {"", ".", ".."} or "/" in filename or not filename.isprintable() or len(filename.encode()) > 255:
        raise InvalidRequest(
            f"{filename!r} is not a plain file name: expected 1 to 255 bytes of printable text without '/'"
        )
    return filename
