"""Sign and check links to blobs of a folder store. Whoever has a link can read its blob until it expires."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote, urlencode

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import Forbidden, InvalidRequest

LONGEST = timedelta(days=7)  # the limit of S3, so that both kinds of store accept the same
SHORTEST_SECRET = 16  # bytes; 128 bits cannot be guessed by whoever has one link to try secrets on


class Links:
    """Links to blobs of a folder store, which the API serves at `/v1/blobs/{digest}`.

    Args:
        secret: the same in every API process; at least 16 bytes.
        clock: seconds since 1970.
    """

    def __init__(self, secret: bytes, *, clock: Callable[[], float] = time.time) -> None:
        if len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the secret that signs links has {len(secret)} bytes: use {SHORTEST_SECRET} or more")
        self._secret = secret
        self._clock = clock

    def make(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """Return path and query of a link that is valid for the duration `expires`.

        Raises:
            InvalidRequest: `filename` is not a plain file name.
            ValueError: `expires` is not between a second and a week.
        """
        until = int(self._clock()) + seconds(expires)
        signature = self._sign(digest, plain(filename), until)
        return f"/v1/blobs/{digest}?{urlencode({'filename': filename, 'expires': until, 'signature': signature})}"

    def check(self, digest: Digest, *, filename: str, expires: int, signature: str) -> None:
        """Return if `make` made exactly this link and it has not expired.

        Args:
            expires: seconds since 1970, as the link says.

        Raises:
            Forbidden: otherwise.
        """
        # In constant time, or the time of the answers would tell a signature byte by byte. The signature comes before
        # the time: only a link that this farm made is told that it has expired.
        if not hmac.compare_digest(self._sign(digest, filename, expires).encode(), signature.encode()):
            raise Forbidden("this link was not made by this farm, or was changed: ask the farm for a new one")
        if self._clock() >= expires:
            raise Forbidden("this link has expired: ask the farm for a new one")

    def _sign(self, digest: Digest, filename: str, expires: int) -> str:
        # The caller chooses the filename. It comes last, so that no choice can be read as another field.
        message = f"enginefarm blob link 1\n{digest}\n{expires}\n{filename}"
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()


def seconds(expires: timedelta) -> int:
    """Return the validity of a link in whole seconds.

    Raises:
        ValueError: it is not between a second and a week.
    """
    if not timedelta(seconds=1) <= expires <= LONGEST:
        raise ValueError(f"a link cannot be good for {expires}: expected between one second and {LONGEST}")
    return int(expires.total_seconds())


def attachment(filename: str) -> str:
    """Return a Content-Disposition header (RFC 6266) that proposes `filename`.

    Raises:
        InvalidRequest: it is not a plain file name.
    """
    plain(filename)
    # Browsers read quotes, backslashes and percent signs differently, so they go into the encoded form.
    if filename.isascii() and not set('"\\%').intersection(filename):
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


def plain(filename: str) -> str:
    """Return `filename` itself.

    Raises:
        InvalidRequest: it could be a path, or break a header.
    """
    if filename in {"", ".", ".."} or "/" in filename or not filename.isprintable() or len(filename.encode()) > 255:
        raise InvalidRequest(
            f"{filename!r} is not a plain file name: expected 1 to 255 bytes of printable text without '/'"
        )
    return filename
