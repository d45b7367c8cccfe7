"""Renew a lease while a stage runs, from a thread of its own: a busy stage must not look like a dead one.

`stop` is set, and the stage kills its program, if the lease is lost, if it cannot be renewed before another worker may
claim the action, or if the worker is leaving. Renewal needs neither the broker nor the stage. Giving up does not even
need an answer of the database: a second thread only compares times.

No error ends the renewal: what the next renewal repairs costs nothing, and what lasts ends the stage in time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from types import TracebackType

from enginefarm.contract.errors import EnginefarmError
from models.catalogue.database import Database
from models.catalogue.states import Fenced
from models.lifecycle.leases import Claim, renew
from models.loops import Loops
from toolchains.toolchain import Report
from workers.reporting.job_log import JobLog
from workers.reporting.storable_text import storable

log = logging.getLogger(__name__)

# Share of the lease. Early enough that the program is dead before another worker can start the action.
_GIVE_UP = 0.6
# Share of the lease after which the supervisor ends the programs by itself: a frozen worker cannot give up.
FROZEN_SHARE = 0.8


class Heartbeat:
    """A context that renews the lease of `claim` while it is open. `lost` is the reason why it gave up, or None."""

    def __init__(
        self,
        database: Database,
        claim: Claim,
        joblog: JobLog,
        *,
        lease_seconds: float,
        stop: threading.Event,
        leaving: threading.Event,
        loops: Loops,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._claim = claim
        self._log = joblog
        self._lease = lease_seconds
        self._leaving = leaving
        self._clock = clock
        # Two seconds at most, because a renewal is also how a cancel and the live log reach their destination.
        pause = min(2.0, lease_seconds / 5)
        subject = f"the renewal of the lease on {claim.key[:12]}"
        self._threads = [
            loops.thread("the check of the lease", self.give_up_in_time, every_seconds=pause / 2),
            loops.thread("the renewal of the lease", self.renew_or_give_up, every_seconds=pause, subject=subject),
        ]
        self._renewed = clock()
        self._outage = ""  # why the last renewal failed, as the end of a sentence; empty if it succeeded
        self.stop = stop
        self.lost: str | None = None
        # Set while the end of the attempt is being written. That ends the lease, which is then no loss; and if the
        # lease was lost before, the writer is refused and says so.
        self.ending = False
        # How long the attempt may go on after the worker was told to leave.
        self.grace_seconds = 0.0
        self._left_at: float | None = None  # when this heartbeat saw that the worker is leaving
        self.on_renewal: Callable[[float], None] | None = None  # gets the time of each renewal
        self.progress: float | None = None
        self.message: str | None = None

    def report(self, report: Report) -> None:
        """Note the stage's progress and message; the next renewal sends them.

        Ranks report in turn, each its own progress: the highest counts, so that progress never falls back.
        """
        # A program may print any number; NaN is neither larger nor smaller than another.
        if report.progress is not None and not math.isnan(report.progress):
            self.progress = max(self.progress or 0.0, report.progress)
        if report.message is not None:
            self.message = storable(report.message)

    def __enter__(self) -> Heartbeat:
        """
        Raises:
            RuntimeError: the system starts no more threads.
        """
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            for thread in self._threads:
                thread.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.stop()
        # The end of the attempt must not wait for a catalogue that does not answer. A thread that is left behind
        # finds the lease ended when it goes on.
        deadline = self._clock() + self._lease
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock()))

    def give_up_in_time(self) -> None:
        """Give up if the last renewal is too long ago, and stop the stage of a worker that is leaving.

        In a thread of its own: a database that does not answer at all blocks the thread that renews.
        """
        if self._leaving.is_set():
            if self._left_at is None:
                self._left_at = self._clock()
            if self._clock() - self._left_at >= self.grace_seconds:
                # The renewals go on: the action belongs to this worker until the stage has handed it back.
                self.stop.set()
        if self._clock() - self._renewed > self._lease * _GIVE_UP:
            self._give_up(f"the lease could not be renewed{self._outage}")

    def renew_or_give_up(self) -> None:
        """Renew the lease, or give up if it is lost. Raises as `renew`; the next call may renew it still."""
        try:
            self.renew()
        except Fenced as error:
            self._give_up(str(error))
        except EnginefarmError as error:
            self._outage = f": {error.detail}"
            raise
        except Exception as error:
            self._outage = f": {type(error).__name__}"
            raise

    def renew(self) -> None:
        """Renew the lease once, and send the new part of the log.

        Raises:
            Fenced: the lease is lost, or the action was cancelled.
            DatabaseUnavailable: the lease is not renewed, or the log is not sent.
        """
        # The database counts the lease from some moment of its transaction: the earliest one is safe.
        renewal_began = self._clock()
        with self._database.write() as session:
            renew(session, self._claim, lease_seconds=self._lease, progress=self.progress, message=self.message)
        self._renewed = renewal_began
        if self.on_renewal is not None:
            self.on_renewal(renewal_began)
        self._outage = ""
        # A transaction of its own: an outage during a long log must not undo the renewal.
        self._log.send(self._database, self._claim)

    def _give_up(self, reason: str) -> None:
        for thread in self._threads:
            thread.stop()
        if self.lost is not None:
            return  # both threads gave up
        if not self.ending:
            log.warning("%s: stopping its programs", reason)
        # Before `stop`: the stage reads it to tell a lost lease from a worker that is leaving.
        self.lost = reason
        self.stop.set()
