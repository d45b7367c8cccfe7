"""The one task: claim the action, run its stage under a lease, publish what it made or say why it failed.

A duplicate message finds the action taken or done, and is a no-op. A lost one is sent again by the sweep.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TypeVar

from enginefarm.contract.errors import DatabaseUnavailable, EnginefarmError, StoreUnavailable
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure
from models.catalogue.states import Fenced
from models.fleet.worker_control import quarantine_if_sick
from models.fleet.worker_states import refuses_new_work
from models.incidents.repair import withdraw_damaged_checkpoint
from models.lifecycle.blobs import NotStored, require_stored
from models.lifecycle.leases import (
    Claim,
    claim_action,
    fail_attempt,
    hand_back,
    reserved_for_others,
    was_published,
)
from models.lifecycle.publication import blob_sizes, publish_checkpoint, publish_engine
from models.lifecycle.transitions import record_log
from models.queue.broker import Announcer
from models.queue.names import Announcement
from models.settings import Settings
from toolchains.toolchain import Directories
from workers.broker_watchdog import Pulse
from workers.failures import StartDamaged, Stopped, explain
from workers.heartbeat import Heartbeat
from workers.job_log import JobLog
from workers.stage_run import Attempt, Product, Tools, engine_columns, upload_log
from workers.workspace import workspace

log = logging.getLogger(__name__)

T = TypeVar("T")
_STAND_BACK_SECONDS = 2.0  # long enough for an idle worker to take what this one leaves to it
_AGAIN_SECONDS = 1.0
_UPLOADS = 3  # again, of what was collected between upload and publication


@dataclass(frozen=True)
class Runner:
    """Runs actions for one worker. `leaving` is set when the worker was told to stop."""

    settings: Settings
    tools: Tools
    announcer: Announcer
    scratch: Path
    leaving: Event
    pulse: Pulse = field(default_factory=Pulse)

    def run(self, key: str) -> None:
        with self.pulse.beat():
            self._take(key)

    def _take(self, key: str) -> None:
        held = self._claim(key)
        if held is None:
            self._leave_to_others(key)
            return
        log.info("took %s %s, attempt %d", held.stage, key[:12], held.attempt)
        with (
            workspace(self.scratch, key, held.attempt) as (folder, directories),
            closing(JobLog(folder / "log")) as joblog,
        ):
            self._lead(held, directories, joblog)

    def _lead(self, held: Claim, directories: Directories, joblog: JobLog) -> None:
        joblog.say(f"{held.stage} {held.key[:12]}, attempt {held.attempt}, on {self.tools.identity.name}")
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
            return claim_action(session, key, self.tools.identity.id, lease_seconds=self.settings.lease_seconds)

    def _leave_to_others(self, key: str) -> None:
        """Not claimed: mostly because somebody has it, or it is done.

        If it failed here before, others go first; if this worker takes nothing new, somebody else must. Then say it
        again and stay busy with that, so that no more messages come: for a moment, or until this worker is released.
        """
        me = self.tools.identity.id
        with self.tools.database.read() as session:
            announcement = reserved_for_others(session, key, me)
        if announcement is None:
            log.info("%s is not to be taken: somebody has it, or it is done", key[:12])
            return
        log.info("%s is left to others", key[:12])
        self.announcer.announce([announcement])
        while not self.leaving.wait(_STAND_BACK_SECONDS) and self._takes_nothing():
            pass

    def _takes_nothing(self) -> bool:
        try:
            with self.tools.database.read() as session:
                return refuses_new_work(session, self.tools.identity.id)
        except DatabaseUnavailable:
            return True  # as it was

    def _run(self, attempt: Attempt) -> None:
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            product = attempt.run()
            attempt.joblog.say("done")
            announcements = self._publish(attempt, product, started_at)
        except Fenced as error:
            self._not_published(attempt, error)
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
        """What was in the store already may be collected until the moment of publishing: then it is sent again."""
        for _ in range(_UPLOADS):
            try:
                return _while_leased(attempt, self._publishing(attempt, product, started_at))
            except NotStored as error:
                attempt.joblog.say(f"{error.detail}: uploading again")
                product = attempt.uploaded_again(product)
        return _while_leased(attempt, self._publishing(attempt, product, started_at))

    def _publishing(self, attempt: Attempt, product: Product, started_at: str) -> Callable[[], list[Announcement]]:
        """One transaction: the fence, the rows of the bytes, the end of the attempt, the log."""
        held, whole_log = attempt.held, upload_log(self.tools.store, attempt.joblog)
        manifest, steps, rewritten = product.manifest, attempt.steps, product.rewritten

        def publish() -> list[Announcement]:
            announcements: list[Announcement] = []
            with self.tools.database.write() as session:
                if attempt.job.stage is Stage.CONVERT:
                    announcements = publish_checkpoint(
                        session, held, manifest, facts=product.facts, steps=steps, rewritten=rewritten
                    )
                else:
                    columns = engine_columns(attempt, product, started_at)
                    publish_engine(session, held, manifest, engine=columns, steps=steps, rewritten=rewritten)
                record_log(session, held.key, held.attempt, whole_log)
                require_stored(self.tools.store, blob_sizes(manifest) | dict([whole_log]))
            return announcements

        return publish

    def _not_published(self, attempt: Attempt, error: Fenced) -> None:
        """Unless it was: the answer to a commit may be lost, and its repetition is fenced by the first."""
        with self.tools.database.read() as session:
            if was_published(session, attempt.held):
                log.info("published %s, as it turned out", attempt.held.key[:12])
                return
        log.warning("not published: %s", error)
        self._save_log(attempt)

    def _stopped(self, attempt: Attempt) -> None:
        held = attempt.held
        if attempt.heartbeat.lost is not None:
            log.warning("stopped %s: %s", held.key[:12], attempt.heartbeat.lost)
            attempt.joblog.say(f"stopped: {attempt.heartbeat.lost}")
        else:
            log.info("handing %s back: this worker is leaving", held.key[:12])
            attempt.joblog.say("handed back: this worker is leaving")
            self._end(attempt, lambda: self._hand_back(held))
        self._save_log(attempt)

    def _hand_back(self, held: Claim) -> list[Announcement]:
        with self.tools.database.write() as session:
            return [hand_back(session, held)]

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        failure = explain(error)
        if failure.cause == "internal":
            log.error("attempt %d of %s met a defect", attempt.held.attempt, attempt.held.key[:12], exc_info=error)
        attempt.joblog.say(f"failed: {failure.cause}: {failure.detail}")
        self._save_log(attempt)
        self._end(attempt, lambda: self._record(attempt, error, failure))

    def _end(self, attempt: Attempt, write: Callable[[], list[Announcement]]) -> None:
        """Say how the attempt ended, if that is still its own to say."""
        try:
            announcements = _while_leased(attempt, write)
        except Fenced as fenced:
            log.warning("its end does not count, or counts already: %s", fenced)
        except DatabaseUnavailable as away:
            log.warning("the end of %s stays unsaid, the sweep will notice: %s", attempt.held.key[:12], away.detail)
        else:
            self.announcer.announce(announcements)

    def _record(self, attempt: Attempt, error: Exception, failure: Failure) -> list[Announcement]:
        settings, steps = self.settings, attempt.steps
        announcements: list[Announcement] = []
        with self.tools.database.write() as session:
            if isinstance(error, StartDamaged):
                announcements = withdraw_damaged_checkpoint(
                    session, attempt.held, error.digest, failure, max_tries=settings.max_tries, steps=steps
                )
            else:
                fail_attempt(session, attempt.held, failure, max_tries=settings.max_tries, steps=steps)
            sick = quarantine_if_sick(session, self.tools.identity.id, after=settings.quarantine_after)
        if sick is not None:
            log.error("this worker is quarantined: %s", sick)
        return announcements

    def _save_log(self, attempt: Attempt) -> None:
        """Best effort: an attempt that failed because the store is away cannot save its log there. What was sent
        live stays in the catalogue then."""
        try:
            whole_log = upload_log(self.tools.store, attempt.joblog)
            with self.tools.database.write() as session:
                record_log(session, attempt.held.key, attempt.held.attempt, whole_log)
                require_stored(self.tools.store, dict([whole_log]))
        except EnginefarmError as error:
            log.warning("the log of %s stays in pieces: %s", attempt.held.key[:12], error.detail)


def _while_leased(attempt: Attempt, write: Callable[[], T]) -> T:
    """`write`, again and again while the catalogue or the store is away, for as long as the heartbeat hopes.

    Safe to repeat: each write is conditional on the attempt, so that one which had come through unnoticed is Fenced.
    """
    while True:
        try:
            return write()
        except (DatabaseUnavailable, StoreUnavailable) as error:
            log.warning("cannot write the end of %s yet: %s", attempt.held.key[:12], error.detail)
            if attempt.heartbeat.lost is not None:
                raise
            time.sleep(_AGAIN_SECONDS)
