"""What all watchers of builds in one API process share: their reads of the catalogue, and a limit for each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from api.lanes import Lane
from enginefarm.contract.errors import Busy

V = TypeVar("V")

# Watchers of a build read it after the same change, but not in the same turn of the event loop.
GATHER_SECONDS = 0.005


class SharedReads(Generic[V]):
    """Reads the same thing once for all who ask at the same time.

    A read that has begun is not shared with those who ask after its begin: they would miss what they have written
    before they asked.

    Args:
        gather_seconds: how long a read waits for others who ask for the same.
    """

    def __init__(self, lane: Lane, gather_seconds: float = 0.0) -> None:
        self._lane = lane
        self._gather_seconds = gather_seconds
        self._reading: dict[Hashable, asyncio.Task[V]] = {}
        self._next: dict[Hashable, asyncio.Task[V]] = {}
        self._asking: Counter[asyncio.Task[V]] = Counter()

    async def read(self, key: Hashable, read: Callable[[], V]) -> V:
        """What `read` returns or raises; `key` names what it reads."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._read(key, read, self._reading.get(key)))
            task.add_done_callback(partial(self._forget, key))
        self._asking[task] += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._asking[task] -= 1
            if not self._asking[task]:
                del self._asking[task]
                task.cancel()  # all who asked have left

    async def _read(self, key: Hashable, read: Callable[[], V], before: asyncio.Task[V] | None) -> V:
        # One read of a thing at a time: those that ask meanwhile share the next one.
        if before is not None:
            await asyncio.wait([before])
        else:
            await asyncio.sleep(self._gather_seconds)
        self._reading[key] = self._next.pop(key)
        return await self._lane.run(None, read)

    def _forget(self, key: Hashable, task: asyncio.Task[V]) -> None:
        for tasks in (self._reading, self._next):
            if tasks.get(key) is task:
                del tasks[key]
        if not task.cancelled():
            task.exception()  # read, so that asyncio does not log it when all who asked have left


class Watchers:
    """Counts the requests of each caller that watch a build."""

    def __init__(self, most_per_caller: int) -> None:
        self._most = most_per_caller
        self._watching: Counter[str | None] = Counter()

    @contextmanager
    def place(self, caller: str | None) -> Iterator[None]:
        """
        Raises:
            Busy: the caller has as many watchers as it may have.
        """
        if self._watching[caller] >= self._most:
            raise Busy(
                f"this API key watches builds with {self._most} requests already (ENGINEFARM_WATCHERS_PER_KEY): "
                "end some of them, then try again"
            )
        self._watching[caller] += 1
        try:
            yield
        finally:
            self._watching[caller] -= 1
            if not self._watching[caller]:
                del self._watching[caller]
