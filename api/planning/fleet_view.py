"""The fleet as requests see it, at most a second old: a burst of submits asks the catalogue once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache

from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState
from models.fleet.roster import present_workers

_SECONDS = 1.0


class FleetView:
    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        # Held while the catalogue is asked, so that others wait for the answer instead of asking too.
        self._lock = threading.Lock()
        self._cache: TTLCache[str, Sequence[WorkerRow]] = TTLCache(1, _SECONDS, timer=clock)

    def live_workers(self) -> Sequence[WorkerRow]:
        """The workers that take new actions."""
        return [worker for worker in self.present_workers() if worker.state == WorkerState.LIVE]

    def present_workers(self) -> Sequence[WorkerRow]:
        """Also the workers that take nothing new: their platforms are platforms of this farm.

        Returns the same object until the catalogue is asked again.
        """
        with self._lock:
            workers = self._cache.get("workers")
            if workers is None:
                with self._database.read() as session:
                    workers = present_workers(session)
                self._cache["workers"] = workers
            return workers
