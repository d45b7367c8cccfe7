"""Keep a lease while a stage runs, from a thread of its own: a busy stage must not look like a dead one.

If the lease is lost, cannot be renewed before it could be taken by somebody else, or the worker is leaving,
`stop` is set and the stage ends its child. This needs neither the broker nor the stage; nor, to give up, an answer of
the database: a second thread looks at the time alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.catalogue.states import Fenced
from models.lifecycle.leases import Claim, renew
from toolchains.toolchain import Report
from workers.job_log import JobLog

log = logging.getLogger(__name__)

# Of the lease: give up early enough that the child is dead before another worker can start.
_GIVE_UP = 0.6


class Heartbeat:
    """A context: renews while inside. `lost` says why it stopped, if it did."""

    def __init__(
        self,
        database: Database,
        held: Claim,
        joblog: JobLog,
        *,
        lease_seconds: float,
        stop: threading.Event,
        leaving: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._held = held
        self._log = joblog
        self._lease = lease_seconds
        self._leaving = leaving
        self._clock = clock
        self._finished = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"lease-{held.key[:8]}", daemon=True)
            for target in (self._watch, self._beat)
        ]
        self._renewed = clock()
        self._away = ""  # what the last renewal met
        self.stop = stop
        self.lost: str | None = None
        self.progress: float | None = None
        self.message: str | None = None

    def report(self, report: Report) -> None:
        """What the stage says of itself. Ranks report in turn, each from where it is: progress never falls back."""
        if report.progress is not None:
            self.progress = max(self.progress or 0.0, report.progress)
        if report.message is not None:
            self.message = report.message

    def __enter__(self) -> Heartbeat:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        pause = min(2.0, self._lease / 5) / 2
        while self.lost is None and not self._finished.wait(pause):
            if self._clock() - self._renewed > self._lease * _GIVE_UP:
                self._give_up(f"the lease could not be renewed{self._away}")

    def _beat(self) -> None:
        while self.lost is None and not self._finished.wait(min(2.0, self._lease / 5)):
            if self._leaving.is_set():
                self.stop.set()  # and go on renewing: the lease is ours until the stage has handed it back
            try:
                self.renew()
            except Fenced as error:
                self._give_up(str(error))
            except DatabaseUnavailable as error:
                self._away = f": {error.detail}"
                log.warning("cannot renew the lease on %s yet: %s", self._held.key[:12], error.detail)

    def renew(self) -> None:
        """Once, now. Raises Fenced if the lease is lost."""
        asked = self._clock()  # the lease counts from before the question, not from after the answer
        with self._database.write() as session:
            renew(session, self._held, lease_seconds=self._lease, progress=self.progress, message=self.message)
        self._renewed, self._away = asked, ""
        self._log.send(self._database, self._held)

    def _give_up(self, why: str) -> None:
        log.warning("%s: stopping its programs", why)
        self.lost = why
        self.stop.set()
