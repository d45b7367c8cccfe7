"""A build as the watch of this process knows it, and what its watchers wait for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import cached_property

from enginefarm.wire.bodies import Build
from models.queries.watched import BuildStatus

# Watchers are told of an outage that lasts for longer. A restart of the database is over by then.
_OUTAGE_SECONDS = 5.0


class Signal:
    """Counts changes. Coroutines wait until it has counted more of them."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: asyncio.Future[None] | None = None

    def change(self) -> None:
        self.count += 1
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def beyond(self, count: int, seconds: float | None = None) -> None:
        """Return once more than `count` changes were counted, after `seconds` at the latest."""
        if self.count > count:
            return
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        # Not `wait_for`: all watchers wait for the one future, and none may cancel it.
        await asyncio.wait([self._waiting], timeout=seconds)


class LookHealth:
    """Whether the catalogue can be looked at."""

    def __init__(self) -> None:
        self._failure: Exception | None = None  # of the last look
        self._failing_since = 0.0

    def succeeded(self) -> None:
        self._failure = None

    def failed(self, error: Exception) -> None:
        if self._failure is None:
            self._failing_since = time.monotonic()
        self._failure = error

    @property
    def in_outage(self) -> bool:
        return self._failure is not None and time.monotonic() - self._failing_since >= _OUTAGE_SECONDS

    def require_no_outage(self) -> None:
        """
        Raises:
            DatabaseUnavailable: all looks of the last seconds failed.
        """
        if self._failure is not None and self.in_outage:
            raise self._failure

    def require_last_look(self) -> None:
        """
        Raises:
            DatabaseUnavailable: the last look failed.
        """
        if self._failure is not None:
            raise self._failure


@dataclass(frozen=True)
class SeenBuild:
    """A build as it was read, with its ETag: it changes with every field of the body but `eta_seconds`."""

    build: Build
    etag: str

    @cached_property
    def event(self) -> str:
        """Serialized once for all watchers of the build."""
        # The id of an event is the ETag without its quotes.
        return f"event: build\nid: {self.etag.strip(chr(34))}\ndata: {self.build.model_dump_json()}\n\n"


class WatchedBuild:
    """A build that requests of this process watch.

    Attributes:
        changes: counts the times that the build may have changed: read it and compare.
        log_changes: counts the times that its log may have grown, and its end.
        status: as of the last look; None: there is no such build, or no look yet.
    """

    def __init__(self, health: LookHealth) -> None:
        self.changes = Signal()
        self.log_changes = Signal()
        self.status: BuildStatus | None = None
        self.log_mark: object = None
        self.watchers = 0
        self.log_followers = 0  # of the watchers
        self.refreshed_at = time.monotonic()
        self.left_at = 0.0  # when the last watcher left
        self._seen: SeenBuild | None = None
        self._seen_count = 0
        self.first_look: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._health = health

    def look_first(self) -> None:
        """Let `ready` wait for the next look, if it does not wait for one already."""
        if self.first_look.done():
            self.first_look = asyncio.get_running_loop().create_future()

    @property
    def log_keys(self) -> tuple[str, ...]:
        """The actions whose logs are the build's log, in order."""
        return () if self.status is None else self.status.log_keys

    @property
    def ended(self) -> bool:
        """As of the last look."""
        return self.status is None or self.status.ended

    @property
    def waits_in_a_queue(self) -> bool:
        """True if somebody wants to know its place in the queue, which changes when other builds start."""
        return self.status is not None and self.status.queued and self.watchers > self.log_followers

    def remember(self, build: SeenBuild, count: int) -> None:
        """`build` was read when `changes` had counted so many."""
        self._seen = build
        self._seen_count = count

    def unchanged_since(self, etag: str | None) -> SeenBuild | None:
        """The build as it was read last, if that has this ETag and nothing changed since."""
        if self._seen is not None and self._seen.etag == etag and self._seen_count == self.changes.count:
            return self._seen
        return None

    async def ready(self) -> None:
        """Return once every later change will be counted.

        Raises:
            DatabaseUnavailable: the catalogue cannot be looked at.
        """
        first_look = self.first_look
        await asyncio.wait([first_look])
        first_look.result()

    async def changed(self, count: int, seconds: float) -> bool:
        """True once `changes` has counted more than `count`; False after `seconds`.

        Raises:
            DatabaseUnavailable: the catalogue cannot be looked at.
        """
        await self.changes.beyond(count, seconds)
        if self.changes.count > count:
            self._health.require_no_outage()
            return True
        # "Unchanged" would be an answer that nobody knows.
        self._health.require_last_look()
        return False

    async def log_changed(self, count: int) -> None:
        """Return once `log_changes` has counted more than `count`.

        Raises:
            DatabaseUnavailable: the catalogue cannot be looked at.
        """
        await self.log_changes.beyond(count)
        self._health.require_no_outage()
