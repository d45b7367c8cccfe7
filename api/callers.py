"""Whose key it is, asked of the catalogue at most once a second: a burst of requests with one key asks once."""

from __future__ import annotations

import hashlib

from models.caching import SingleFlight, TimedCache
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import Caller

_SECONDS = 1.0  # a revoked key is good for so much longer, at most


class Callers:
    """Only keys that are good are remembered, and as hashes: a guess is looked up each time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: TimedCache[bytes, Caller] = TimedCache()
        self._asking: SingleFlight[bytes, Caller | None] = SingleFlight()

    def known(self, key: str) -> Caller | None:
        """The caller, if the catalogue said so just now; asks nobody."""
        return self._known.get(_hash(key))

    def ask(self, key: str) -> Caller | None:
        return self._asking.run(_hash(key), lambda: self._ask(key))

    def _ask(self, key: str) -> Caller | None:
        with self._database.read() as session:
            caller = access.authenticate(session, key)
        if caller is not None:
            self._known.put(_hash(key), caller, _SECONDS)
        return caller


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
