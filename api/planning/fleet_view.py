"""The live fleet as a request sees it, at most a second old: a burst of submits asks the catalogue once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState
from models.fleet.roster import present_workers

_SECONDS = 1.0


class FleetView:
    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, Sequence[WorkerRow]] | None = None

    def workers(self) -> Sequence[WorkerRow]:
        """Those that take work."""
        return [worker for worker in self.there() if worker.state == WorkerState.LIVE]

    def there(self) -> Sequence[WorkerRow]:
        """Also those that take nothing new: what they are says which platforms the farm has."""
        with self._lock:
            if self._seen is None or self._clock() - self._seen[0] > _SECONDS:
                with self._database.read() as session:
                    self._seen = (self._clock(), present_workers(session))
            return self._seen[1]
