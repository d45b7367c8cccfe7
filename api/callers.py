"""Callers by API key, cached for a second: a burst of requests with one key reads the catalogue once."""

from __future__ import annotations

import hashlib
from functools import partial

from models.caching import SingleFlight, TimedCache
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import Caller

_SECONDS = 1.0  # at most so long a revoked key is still accepted


class Callers:
    """Looks callers up by API key."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Only valid keys, and as hashes: guessed keys cannot fill the cache, and a memory dump shows no key.
        self._cache: TimedCache[bytes, Caller] = TimedCache()
        self._lookups: SingleFlight[bytes, Caller | None] = SingleFlight()

    def cached(self, key: str) -> Caller | None:
        """The caller, if the catalogue was asked within the last second. Never blocks."""
        return self._cache.get(_hash(key))

    def look_up(self, key: str) -> Caller | None:
        """The caller by the catalogue; None if the key is unknown or was revoked."""
        # At once for all requests with this key that wait now.
        return self._lookups.run(_hash(key), partial(self._authenticate, key))

    def _authenticate(self, key: str) -> Caller | None:
        with self._database.read() as session:
            caller = access.authenticate(session, key)
        if caller is not None:
            self._cache.put(_hash(key), caller, _SECONDS)
        return caller


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
