"""The one task: claim the action, run its stage under a lease, publish what it made or say why it failed.

A duplicate message finds the action taken or done, and is a no-op. A lost one is sent again by the sweep.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from enginefarm.errors import EnginefarmError
from enginefarm.wire import Stage
from models.actions import Announcement, keep_log
from models.broker import Announcer
from models.leases import Claim, claim, fail_attempt, hand_back
from models.publication import publish_checkpoint, publish_engine
from models.settings import Settings
from models.states import Fenced
from workers.attempt import Attempt, Product, Tools, engine_columns, upload_log
from workers.failures import Stopped, explain
from workers.heartbeat import Heartbeat
from workers.joblog import JobLog
from workers.workspace import workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runner:
    """Runs actions for one worker. `leaving` is set when the worker was told to stop."""

    settings: Settings
    tools: Tools
    announcer: Announcer
    scratch: Path
    leaving: Event

    def run(self, key: str) -> None:
        held = self._claim(key)
        if held is None:
            log.info("%s is not to be taken: somebody has it, or it is done", key[:12])
            return
        log.info("took %s %s, attempt %d", held.stage, key[:12], held.attempt)
        with workspace(self.scratch, key, held.attempt) as (folder, directories):
            joblog = JobLog(folder / "log")
            joblog.say(f"{held.stage} {key[:12]}, attempt {held.attempt}, on {self.tools.identity.name}")
            lease = self.settings.lease_seconds
            heartbeat = Heartbeat(
                self.tools.database, held, joblog, lease_seconds=lease, stop=Event(), leaving=self.leaving
            )
            with heartbeat:
                self._run(Attempt(self.tools, held, directories, joblog, heartbeat, heartbeat.stop))

    def _claim(self, key: str) -> Claim | None:
        if self.leaving.is_set():
            return None  # the sweep announces it again
        with self.tools.database.write() as session:
            return claim(session, key, self.tools.identity.id, lease_seconds=self.settings.lease_seconds)

    def _run(self, attempt: Attempt) -> None:
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            product = attempt.run()
            attempt.joblog.say("done")
            announcements = self._publish(attempt, product, started_at)
        except Fenced as error:
            log.warning("not published: %s", error)
            self._save_log(attempt)
        except Stopped:
            self._stopped(attempt)
        except Exception as error:  # noqa: BLE001  # whatever it is becomes the attempt's failure
            self._failed(attempt, error)
        else:
            log.info("published %s", attempt.held.key[:12])
            self.announcer.announce(announcements)
            if attempt.warmth is not None:
                attempt.warmth.record(attempt.held, seconds=attempt.steps[attempt.job.stage])

    def _publish(self, attempt: Attempt, product: Product, started_at: str) -> list[Announcement]:
        """One transaction: the fence, the rows of the bytes, the end of the attempt, the log."""
        held, whole_log = attempt.held, upload_log(self.tools.store, attempt.joblog)
        with self.tools.database.write() as session:
            announcements: list[Announcement] = []
            if attempt.job.stage is Stage.CONVERT:
                announcements = publish_checkpoint(
                    session, held, product.manifest, facts=product.facts, steps=attempt.steps
                )
            else:
                columns = engine_columns(attempt, product, started_at)
                publish_engine(session, held, product.manifest, engine=columns, steps=attempt.steps)
            keep_log(session, held.key, held.attempt, whole_log)
        return announcements

    def _stopped(self, attempt: Attempt) -> None:
        held = attempt.held
        if attempt.heartbeat.lost is not None:
            log.warning("stopped %s: %s", held.key[:12], attempt.heartbeat.lost)
            attempt.joblog.say(f"stopped: {attempt.heartbeat.lost}")
        else:
            log.info("handing %s back: this worker is leaving", held.key[:12])
            attempt.joblog.say("handed back: this worker is leaving")
            with self.tools.database.write() as session:
                announcement = hand_back(session, held)
            self.announcer.announce([announcement])
        self._save_log(attempt)

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        failure = explain(error)
        if failure.cause == "internal":
            log.error("attempt %d of %s met a defect", attempt.held.attempt, attempt.held.key[:12], exc_info=error)
        attempt.joblog.say(f"failed: {failure.cause}: {failure.detail}")
        self._save_log(attempt)
        max_tries = self.settings.max_tries
        try:
            with self.tools.database.write() as session:
                fail_attempt(session, attempt.held, failure, max_tries=max_tries, steps=attempt.steps)
        except Fenced as fenced:
            log.warning("its failure does not count: %s", fenced)

    def _save_log(self, attempt: Attempt) -> None:
        """Best effort: an attempt that failed because the store is away cannot save its log there. What was sent
        live stays in the catalogue then."""
        try:
            whole_log = upload_log(self.tools.store, attempt.joblog)
            with self.tools.database.write() as session:
                keep_log(session, attempt.held.key, attempt.held.attempt, whole_log)
        except EnginefarmError as error:
            log.warning("the log of %s stays in pieces: %s", attempt.held.key[:12], error.detail)
