"""The live fleet, cached for a second: a burst of submits reads it from the catalogue once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache

from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState
from models.fleet.roster import present_workers

# A worker that starts is visible after a second. The sweep takes longer than that to notice one that died.
_SECONDS = 1.0


class FleetView:
    """The workers of the fleet, for planning and for the checks of a submit."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        # Locked during the query, so that concurrent requests wait for its result instead of querying, too.
        self._lock = threading.Lock()
        self._cache: TTLCache[str, Sequence[WorkerRow]] = TTLCache(1, _SECONDS, timer=clock)

    def live_workers(self) -> Sequence[WorkerRow]:
        """The workers that take new actions."""
        return [worker for worker in self.present_workers() if worker.state == WorkerState.LIVE]

    def present_workers(self) -> Sequence[WorkerRow]:
        """Also the workers that are drained or quarantined: a spec may still name their platforms.

        Returns the same object until the catalogue is read again, so `is` tells whether the fleet may have changed.
        """
        with self._lock:
            workers = self._cache.get("workers")
            if workers is None:
                with self._database.read() as session:
                    workers = present_workers(session)
                self._cache["workers"] = workers
            return workers
