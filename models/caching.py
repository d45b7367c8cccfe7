"""Work shared between threads that ask for the same thing at the same time, and for a while after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import TLRUCache

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """While one thread works on a key, others that ask for it wait and get its outcome, errors included.

    A failure is shared with those who were waiting, and then forgotten: without that, a hub that does
    not answer would be tried by each of a hundred waiting requests in turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Future[V]] = {}

    def run(self, key: K, work: Callable[[], V]) -> V:
        with self._lock:
            running = self._flights.get(key)
            if running is None:
                mine = self._flights[key] = Future[V]()
        return self._fly(key, mine, work) if running is None else running.result()

    def _fly(self, key: K, future: Future[V], work: Callable[[], V]) -> V:
        try:
            value = work()
        except BaseException as error:
            self._land(key)
            future.set_exception(error)
            raise
        self._land(key)
        future.set_result(value)
        return value

    def _land(self, key: K) -> None:
        with self._lock:
            del self._flights[key]


class TimedCache(Generic[K, V]):
    """Values that expire: cachetools' TLRUCache behind a lock. When full, the least recently used value leaves."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, capacity: int = 1024) -> None:
        self._lock = threading.Lock()  # also to read: cachetools orders its entries anew when one is read
        self._entries: TLRUCache[K, tuple[V, float]] = TLRUCache(
            capacity, lambda _key, entry, now: now + entry[1], timer=clock
        )

    def get(self, key: K) -> V | None:
        with self._lock:
            entry = self._entries.get(key)
        return entry[0] if entry is not None else None

    def put(self, key: K, value: V, seconds: float) -> None:
        with self._lock:
            self._entries[key] = (value, seconds)
