"""Signed, expiring links to the blobs of a folder store: HMAC-SHA256 over everything the link says."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import urlencode

from enginefarm.digest import Digest
from enginefarm.errors import Forbidden

PATH = "/v1/blobs"


class LinkSigner:
    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        """A path with a query, to be served by the API."""
        until = int(self._clock() + expires.total_seconds())
        signature = self._signature(digest, filename, until)
        return f"{PATH}/{digest}?" + urlencode({"filename": filename, "expires": until, "signature": signature})

    def check(self, digest: Digest, *, filename: str, expires: int, signature: str) -> None:
        """Raises Forbidden unless we signed exactly this and its time is not over."""
        expected = self._signature(digest, filename, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forbidden("this link was not made by the farm: ask for the file again")
        if self._clock() > expires:
            raise Forbidden("this link has expired: ask for the file again")

    def _signature(self, digest: Digest, filename: str, expires: int) -> str:
        # Neither a digest nor a number holds a line's end, so no two links sign the same text.
        text = f"{digest}\n{expires}\n{filename}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
