"""The live fleet, cached for a second: a burst of submits reads it from the catalogue once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from cachetools import TTLCache
from sqlalchemy import inspect

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
        self._workers: Sequence[WorkerRow] = []  # as of the last query
        self._columns: list[dict[str, Any]] = []

    def live_workers(self) -> Sequence[WorkerRow]:
        """The workers that take new actions."""
        return [worker for worker in self.present_workers() if worker.state == WorkerState.LIVE]

    def present_workers(self) -> Sequence[WorkerRow]:
        """Also the workers that are drained or quarantined: a spec may still name their platforms.

        Returns the same object until a row has changed, apart from when its worker was last seen: so `is` tells whether
        planning would see the same fleet.
        """
        with self._lock:
            workers = self._cache.get("workers")
            if workers is None:
                with self._database.read() as session:
                    workers = present_workers(session)
                columns = [_columns_to_compare(worker) for worker in workers]
                if columns == self._columns:
                    workers = self._workers
                self._workers, self._columns = workers, columns
                self._cache["workers"] = workers
            return workers


def _columns_to_compare(worker: WorkerRow) -> dict[str, Any]:
    names = inspect(WorkerRow).column_attrs.keys()
    return {name: getattr(worker, name) for name in names if name != WorkerRow.last_seen_at.key}
