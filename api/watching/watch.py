"""The one watch of the catalogue in an API process, for all requests that watch builds.

It looks at all watched builds at once, and a watcher reads its build in full only when the build has changed. It looks
as soon as the catalogue notifies of a change, and else in intervals: a lost notification costs at most one of them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import nsmallest

from api.lanes import Lane
from api.watching.watched_build import LookHealth, WatchedBuild
from models.catalogue.changes import Changes
from models.catalogue.database import Database
from models.queries.watched import Look, look_at

# Between two looks while no change can be heard: a person does not notice it.
LOOK_SECONDS = 0.3
_TICK_SECONDS = 0.25  # until watchers notice that this process ends
# Looks may take this part of the time, and so of the interpreter, when changes follow each other for long.
_LOOKING_SHARE = 0.1
_CATCH_UP_SECONDS = 2.0  # without looks allow as many more of them: a few changes in a row are each seen at once
_KEPT_SECONDS = 2.0  # without watchers
_MOST_KEPT = 2000  # builds: with more, none is kept
# A queued build is read again after so long, because its place in the queue changes when others start; of many builds
# some at a time.
_REFRESH_SECONDS = 2.0
_REFRESHED_AT_ONCE = 8


class Watch:
    """Use it from one event loop, in which `round` is awaited again and again.

    Args:
        lane: runs the looks.
        leaving: set once this process ends; all watchers are then woken.
    """

    def __init__(self, database: Database, lane: Lane, leaving: threading.Event) -> None:
        self._database = database
        self._lane = lane
        self._leaving = leaving
        self._builds: dict[str, WatchedBuild] = {}
        self._by_key: defaultdict[str, set[str]] = defaultdict(set)  # ids of builds that wait for an action
        self._wake = asyncio.Event()
        self._due: set[str] = set()  # ids of builds to look at before the next look at all
        self._heard: set[str] = set()  # keys of actions that changed
        self._interval = LOOK_SECONDS
        self._looked_at = 0.0  # at all builds
        self._next_look_at = 0.0  # the earliest time that `_LOOKING_SHARE` allows
        self._refreshed_at = 0.0
        self._health = LookHealth()

    @property
    def is_needed(self) -> bool:
        """True while somebody watches. Any thread may ask."""
        return bool(self._builds)

    @contextmanager
    def of(self, build_id: str, *, log: bool = False) -> Iterator[WatchedBuild]:
        """Watch a build while the block runs, and its log with `log`. A build that does not exist never changes."""
        watched = self._builds.get(build_id)
        if watched is None:
            watched = self._builds[build_id] = WatchedBuild(self._health)
        elif log and not watched.log_followers:
            watched.look_first()  # no look so far was one at its log
        if not watched.first_look.done():
            self._due.add(build_id)
            self._wake.set()
        watched.watchers += 1
        watched.log_followers += log
        try:
            yield watched
        finally:
            watched.watchers -= 1
            watched.log_followers -= log
            if not watched.watchers:
                watched.left_at = time.monotonic()
                if len(self._builds) > _MOST_KEPT:
                    self._forget(build_id, watched)

    def _forget_unwatched(self) -> None:
        """A client asks again after each long poll: its build is kept for a moment."""
        kept_since = time.monotonic() - _KEPT_SECONDS
        for build_id, watched in list(self._builds.items()):
            if not watched.watchers and watched.left_at < kept_since:
                self._forget(build_id, watched)

    def _forget(self, build_id: str, watched: WatchedBuild) -> None:
        del self._builds[build_id]
        self._forget_keys(build_id, watched)

    def _forget_keys(self, build_id: str, watched: WatchedBuild) -> None:
        for key in watched.log_keys:
            self._by_key[key].discard(build_id)
            if not self._by_key[key]:
                del self._by_key[key]

    async def round(self) -> None:
        """Wait for the next reason to look, then look.

        Raises:
            DatabaseUnavailable: the look failed. The next round looks again.
        """
        await self._reason()
        self._wake_if_leaving()
        build_ids = self._due
        for key in self._heard:
            build_ids |= self._by_key.get(key, set())
        self._due = set()
        self._heard = set()
        begin = time.monotonic()
        looks_at_all = begin - self._looked_at >= self._interval
        if looks_at_all:
            self._looked_at = begin
            self._forget_unwatched()
            build_ids = set(self._builds)
        if not build_ids:
            return
        try:
            look = await self._look(build_ids)
        except Exception as error:
            self._note_failure(error)
            raise
        self._health.succeeded()
        for build_id in build_ids:
            self._note(build_id, look)
        if looks_at_all and begin - self._refreshed_at >= _REFRESH_SECONDS:
            self._refreshed_at = begin
            self._refresh_queued()
        now = time.monotonic()
        self._next_look_at = max(self._next_look_at, begin - _CATCH_UP_SECONDS) + (now - begin) / _LOOKING_SHARE
        await asyncio.sleep(max(0.0, min(self._next_look_at - now, LOOK_SECONDS)))

    async def _reason(self) -> None:
        """Return when something changed, a build is new, or a look or a tick is due."""
        seconds = None
        if self._builds:
            next_look = self._looked_at + self._interval - time.monotonic()
            seconds = max(0.0, min(next_look, _TICK_SECONDS))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _look(self, build_ids: Collection[str]) -> Look:
        followed = [build_id for build_id, watched in self._builds.items() if watched.log_followers]
        looking = asyncio.create_task(self._lane.run(None, partial(self._read, build_ids, followed)))
        try:
            # A database may not answer for long, and this process may end meanwhile.
            while not looking.done():
                await asyncio.wait([looking], timeout=_TICK_SECONDS)
                self._wake_if_leaving()
            return looking.result()
        finally:
            looking.cancel()

    def _read(self, build_ids: Collection[str], followed: Collection[str]) -> Look:
        with self._database.read() as session:
            return look_at(session, build_ids, followed)

    def _note(self, build_id: str, look: Look) -> None:
        watched = self._builds.get(build_id)
        if watched is None:
            return  # its watchers have left
        # Whoever waits for the first look begins to count after it.
        status = look.builds.get(build_id)
        if status != watched.status:
            # Clean-up may have removed the build, or its action and with it the key of the conversion.
            self._forget_keys(build_id, watched)
            watched.status = status
            for key in watched.log_keys:
                self._by_key[key].add(build_id)
            watched.changes.change()
            watched.log_changes.change()
        log_mark = tuple(look.logs.get(key) for key in watched.log_keys)
        if watched.log_followers and log_mark != watched.log_mark:
            watched.log_mark = log_mark
            watched.log_changes.change()
        if not watched.first_look.done():
            watched.first_look.set_result(None)

    def _note_failure(self, error: Exception) -> None:
        self._health.failed(error)
        self._looked_at = time.monotonic() - self._interval + LOOK_SECONDS  # so long until the next look
        for watched in self._builds.values():
            if not watched.first_look.done():
                watched.first_look.set_exception(error)
                watched.first_look.exception()  # read, so that asyncio does not log it when all who waited have left
                watched.look_first()
        if self._health.in_outage:
            self._wake_all()

    def _refresh_queued(self) -> None:
        queued = [watched for watched in self._builds.values() if watched.waits_in_a_queue]
        for watched in nsmallest(_REFRESHED_AT_ONCE, queued, key=lambda watched: watched.refreshed_at):
            watched.refreshed_at = self._refreshed_at
            watched.changes.change()

    def _wake_if_leaving(self) -> None:
        if self._leaving.is_set():
            self._wake_all()

    def _wake_all(self) -> None:
        for watched in self._builds.values():
            watched.changes.change()
            watched.log_changes.change()

    def set_interval(self, seconds: float) -> None:
        """Look at all builds so often. Other looks follow what `hear` is told."""
        self._interval = seconds
        self._looked_at = 0.0  # a change between the last look and now was not heard
        self._wake.set()

    def hear(self, changes: Changes) -> None:
        """Look as soon as possible at the builds that these changes concern."""
        if changes.actions is None or changes.logs is None:
            self._looked_at = 0.0
        else:
            self._heard.update(changes.actions)
            for key in changes.logs:
                for build_id in self._by_key.get(key, ()):
                    self._builds[build_id].log_changes.change()
        self._wake.set()
