"""Callers by API key. Every active key is in memory, at most a second old: no guess of a key costs a query."""

from __future__ import annotations

import asyncio
import math
import time

from starlette.concurrency import run_in_threadpool

from models.caching import TimedCache
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import ActiveKey, Caller

_SECONDS = 1.0  # at most so long a revoked or expired key is still accepted
WRITE_USE_SECONDS = 10.0  # between two calls of `Callers.write_use`
_USE_SECONDS = 60.0  # between two writes of a key's last use by this process


class Callers:
    """Looks callers up by API key, and records which keys were used."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Hashes, as the catalogue has them: a memory dump shows no key.
        self._keys: dict[str, ActiveKey] = {}
        self._read_at = -math.inf  # when the last reading of all keys began, by time.monotonic()
        self._reading: asyncio.Task[None] | None = None
        self._used: set[str] = set()  # ids of keys that were used since the last `write_use`
        self._written: TimedCache[str, bool] = TimedCache()  # ids whose use was written within the last minute

    async def find(self, key: str) -> Caller | None:
        """The caller, by the active keys as they were at most a second ago.

        Raises:
            DatabaseUnavailable: they are older, and cannot be read.
        """
        if time.monotonic() - self._read_at > _SECONDS:
            await self._read_again()
        active = access.match(self._keys, key)
        if active is None:
            return None
        self._used.add(active.id)
        return active.caller

    async def find_anew(self, key: str) -> Caller:
        """The caller by the catalogue, where a key may be that is younger than a second.

        Raises:
            Unauthenticated: the key is not accepted; the text says why.
            DatabaseUnavailable
        """
        active = await run_in_threadpool(self._authenticate, key)
        self._keys[active.id] = active
        self._used.add(active.id)
        return active.caller

    async def write_use(self) -> None:
        """Write to the catalogue which keys were used. Not part of any request, and at most once a minute for a key.

        Raises:
            DatabaseUnavailable: nothing is lost; the next call writes it.
        """
        due = {key_id for key_id in self._used if self._written.get(key_id) is None}
        self._used = set()
        if due:
            try:
                await run_in_threadpool(self._write_use, due)
            except BaseException:
                self._used |= due
                raise
        for key_id in due:
            self._written.put(key_id, True, _USE_SECONDS)

    async def _read_again(self) -> None:
        # All requests that wait share one query in one thread. It outlives a caller that leaves.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(run_in_threadpool(self._read))
            self._reading.add_done_callback(_retrieve_error)
        await asyncio.shield(self._reading)

    def _read(self) -> None:
        started = time.monotonic()
        with self._database.read() as session:
            self._keys = access.active_keys(session)
        self._read_at = started

    def _authenticate(self, key: str) -> ActiveKey:
        with self._database.read() as session:
            return access.authenticate(session, key)

    def _write_use(self, key_ids: set[str]) -> None:
        with self._database.write() as session:
            access.note_use(session, key_ids)


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Without this asyncio logs an error whose every waiter has left."""
    if not task.cancelled():
        task.exception()
