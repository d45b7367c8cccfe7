"""The worker's task: claim an action, run its stage under a lease, and publish the output or record the failure.

A duplicate message finds the action claimed or done, and changes nothing. The sweep announces again what was lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Event

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from enginefarm.contract.errors import DatabaseUnavailable, EnginefarmError, StoreUnavailable
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure
from models.catalogue.states import Fenced
from models.fleet.gpu_use import gpus_in_use
from models.fleet.worker_control import quarantine_if_sick
from models.fleet.worker_states import refuses_new_work
from models.incidents.repair import withdraw_damaged_checkpoint
from models.lifecycle.blobs import NotStored, require_stored
from models.lifecycle.gpu_locks import GpuInUseError, lock_gpus
from models.lifecycle.leases import (
    Claim,
    claim_next,
    fail_attempt,
    hand_back,
    has_action,
    left_in_queue,
    was_published,
)
from models.lifecycle.publication import blob_sizes, publish_checkpoint, publish_engine
from models.lifecycle.transitions import record_log
from models.loops import Loops, message_of
from models.queue.broker import Announcer
from models.queue.names import Announcement
from models.settings import Settings
from workers.broker_watchdog import MessageActivity
from workers.gpus import HeldGpus, claim_uses_gpu
from workers.inputs.prefetch import Prefetch
from workers.inputs.warm_records import WarmRecords
from workers.reporting.failures import BelongsElsewhere, StageStopped, StartDamaged, cannot_begin, explain
from workers.reporting.heartbeat import Heartbeat
from workers.reporting.job_log import JobLog
from workers.stage.engine_columns import engine_columns
from workers.stage.output import StageOutput
from workers.stage.refusals import refuse_checkpoint_of_other_sm, refuse_foreign_code, refuse_other_platform
from workers.stage.run import StageRun, upload_log
from workers.stage.tools import Tools
from workers.turn import Turn

log = logging.getLogger(__name__)

_STAND_BACK_SECONDS = 2.0  # long enough for an idle worker to receive the message that this one announces again
_LOCKED_SECONDS = 0.1  # longer than most transactions of the API, which lock the action that they change
_GPU_POLL_SECONDS = 1.0  # between two looks whether another worker has released a GPU
_RETRY_SECONDS = 1.0  # between two tries of a write at the end of an attempt
_REPEATED_UPLOADS = 3  # of blobs that garbage collection removed between upload and publication


@dataclass(frozen=True)
class Runner:
    """Runs actions for one worker. `leaving` is set when the worker was told to stop."""

    settings: Settings
    tools: Tools
    announcer: Announcer
    leaving: Event
    loops: Loops
    activity: MessageActivity = field(default_factory=MessageActivity)

    @cached_property
    def prefetch(self) -> Prefetch:
        """Fetches the inputs of the next action while a stage computes."""
        tools = self.tools
        return Prefetch(tools.database, tools.identity.id, tools.inputs, tools.standby, self.leaving)

    def run(self, announced: str, queue: str, turn: Turn) -> None:
        """Claim an action of the queue, run its stage, publish the output. An error ends the attempt, never the worker.

        `announced` is the key in the message. The message is for its queue: the catalogue decides which action is next.
        The attempt passes `turn` on when its programs have ended: the worker's next one may begin while this one is
        checked, uploaded and published.
        """
        try:
            claim = self.claim(queue)
            if claim is None:
                # Usual: the message is a duplicate, or another worker was faster.
                self.leave_to_others(announced, queue)
                return
        except GpuInUseError as error:
            self.wait_for_gpu(error)
            return
        except DatabaseUnavailable as error:
            log.warning("cannot claim from %s, the sweep will announce it again: %s", queue, error.detail)
            return
        key = claim.key
        log.info("took %s %s, attempt %d", claim.stage, key[:12], claim.attempt)
        with self.activity.attempt(), ExitStack() as stack:
            held_gpus = HeldGpus(self.tools.database, claim)
            # Also after a start that fails.
            stack.callback(held_gpus.release)
            try:
                workspace = stack.enter_context(self.tools.standby.workspace())
                joblog = stack.enter_context(closing(JobLog(workspace.folder)))
                joblog.say(f"{claim.stage} {key[:12]}, attempt {claim.attempt}, on {self.tools.identity.name}")
                heartbeat = stack.enter_context(
                    Heartbeat(
                        self.tools.database,
                        claim,
                        joblog,
                        lease_seconds=self.settings.lease_seconds,
                        stop=Event(),
                        leaving=self.leaving,
                        loops=self.loops,
                    )
                )
            except (OSError, RuntimeError) as error:
                self.fail_at_the_start(claim, error)
                return
            stage_run = StageRun(self.tools, claim, workspace, joblog, heartbeat)
            try:
                # Before the fetch: a message in the wrong queue must not cost a download of the weights.
                refuse_other_platform(claim, self.tools)
                refuse_checkpoint_of_other_sm(claim, self.tools)
                refuse_foreign_code(claim, self.tools)
                with stage_run.step("fetch"):
                    stage_run.fetch()
                with self.prefetch.during(claim), stage_run.step(claim.stage):
                    stage_run.run_programs()
                # The GPU is free from here on, for this worker or another one.
                held_gpus.release()
                heartbeat.grace_seconds = self.settings.kill_seconds
                if stage_run.leaves_room():
                    turn.pass_on()
                with stage_run.step("check"):
                    output = stage_run.check()
                with stage_run.step("upload"):
                    output = stage_run.upload(output)
                joblog.say("done")
                announcements = self.publish(stage_run, output)
            except Fenced as error:
                self.finish_fenced(stage_run, error)
            except StageStopped:
                self.finish_stopped(stage_run)
            except BelongsElsewhere as error:
                log.info("handing %s over to %s: %s", key[:12], error.queue, error)
                joblog.say(f"handed over to {error.queue}: {error}")
                self._save_log(stage_run)
                self._end(stage_run, partial(self.hand_back, claim, error.queue))
            except Exception as error:  # noqa: BLE001  # whatever it is becomes the attempt's failure
                held_gpus.programs_may_live = stage_run.programs_may_live
                self.finish_failed(stage_run, error)
            else:
                log.info("published %s", key[:12])
                # After the commit: a worker that hears of a build must be able to read its checkpoint.
                self.announcer.announce(announcements)
                if stage_run.warm_start is not None:
                    stage_run.warm_start.record(claim, seconds=stage_run.steps[claim.stage])

    def claim(self, queue: str) -> Claim | None:
        """Claim the next action of the queue, and lock this worker's GPUs if its stage uses them.

        Returns None if there is none that this worker may run now, or if it is leaving.

        Raises:
            GpuInUseError: another worker uses one of this worker's GPUs. The action is not claimed.
        """
        if self.leaving.is_set():
            return None  # the sweep announces it again
        settings = self.settings
        gpus = self.tools.identity.fingerprint.host.gpu_uuids
        held = WarmRecords(self.tools.inputs.cache).held()
        with self.tools.database.write() as session:
            claim = claim_next(session, queue, self.tools.identity.id, lease_seconds=settings.lease_seconds, held=held)
            if claim is not None and gpus and claim_uses_gpu(claim):
                # In the claim's transaction: if a GPU is in use, it is rolled back and the action stays queued.
                seconds = settings.lease_seconds + settings.kill_seconds
                claim = lock_gpus(session, claim, gpus, seconds=seconds)
        if claim is not None:
            self.prefetch.claimed(claim.key)
        return claim

    def wait_for_gpu(self, error: GpuInUseError) -> None:
        """Leave the action to workers with other GPUs, and take no message until this worker's GPUs are free.

        The worker goes on reporting to the catalogue, where `enginefarm workers` and the build say for whom it waits.
        """
        log.info("%s waits: %s", error.waiting.key[:12], error)
        self.announcer.announce([error.waiting])
        gpus = self.tools.identity.fingerprint.host.gpu_uuids
        while not self.leaving.wait(_GPU_POLL_SECONDS):
            try:
                with self.tools.database.read() as session:
                    in_use = gpus_in_use(session)
            except DatabaseUnavailable:
                continue  # a claim would fail too
            # Also those of this worker's own: the attempt that is finishing could not release them.
            if in_use.keys().isdisjoint(gpus):
                return

    def leave_to_others(self, announced: str, queue: str) -> None:
        """Announce again what this worker did not claim. Mostly nothing is due: then do nothing.

        An action that failed here is reserved for others for a while, and a drained or quarantined worker takes no
        action at all. Wait before the next message then, so that another worker receives the announcement: for a
        moment, or until an administrator releases this worker.
        """
        worker_id = self.tools.identity.id
        with self.tools.database.read() as session:
            left = left_in_queue(session, queue, worker_id)
            is_known = has_action(session, announced)
        if not is_known:
            log.warning(
                "%s is no action of this farm: another farm uses the same database of the broker; give each its own "
                "number at the end of ENGINEFARM_BROKER_URL",
                announced[:12],
            )
        if left is None:
            log.info("nothing is to be claimed from %s: another worker has %s, or it is done", queue, announced[:12])
            return
        if not left.reserved:
            # It was locked for a moment. This message was the one that announces it.
            self.leaving.wait(_LOCKED_SECONDS)
            self.announcer.announce([left.announcement])
            return
        log.info("%s is left to other workers", left.announcement.key[:12])
        self.announcer.announce([left.announcement])
        while not self.leaving.wait(_STAND_BACK_SECONDS):
            try:
                with self.tools.database.read() as session:
                    if not refuses_new_work(session, worker_id):
                        return
            except DatabaseUnavailable:
                # Without an answer the worker counts as drained still: only an administrator's release changes that.
                continue

    def publish(self, stage_run: StageRun, output: StageOutput) -> list[Announcement]:
        """Publish the output; upload again what garbage collection removed between upload and publication.

        Raises:
            Fenced: the lease was lost, or an earlier try of this was committed without an answer.
        """
        uploads_left = _REPEATED_UPLOADS
        while True:
            # Inside the loop: the line about a repeated upload belongs to the log that is published.
            log_blob = upload_log(self.tools.store, stage_run.joblog)
            try:
                return self._while_leased(stage_run)(self.write_publication, stage_run, output, log_blob)
            except NotStored as error:
                if uploads_left == 0:
                    raise
                uploads_left -= 1
                stage_run.joblog.say(f"{error.detail}: uploading again")
                output = stage_run.upload_again(output)

    def write_publication(
        self, stage_run: StageRun, output: StageOutput, log_blob: tuple[str, int]
    ) -> list[Announcement]:
        """Publish in one transaction: check the fence, write the rows of the blobs, end the attempt, record the log."""
        claim, manifest, steps = stage_run.claim, output.manifest, stage_run.steps
        announcements: list[Announcement] = []
        with self.tools.database.write() as session:
            if stage_run.job.stage is Stage.CONVERT:
                announcements = publish_checkpoint(
                    session, claim, manifest, facts=output.facts, steps=steps, rewritten=output.rewritten
                )
            else:
                columns = engine_columns(stage_run, output)
                publish_engine(session, claim, manifest, engine=columns, steps=steps, rewritten=output.rewritten)
            record_log(session, claim.key, claim.attempt, log_blob)
            # Last, and before the commit: the rows of the blobs are locked now, so that nothing deletes them any more.
            require_stored(self.tools.store, blob_sizes(manifest) | dict([log_blob]))
        return announcements

    def finish_fenced(self, stage_run: StageRun, error: Fenced) -> None:
        """After a refused publication: find out whether an earlier try of it was committed, else save the log."""
        claim = stage_run.claim
        # The answer to a commit may be lost. Its repetition is then fenced by the first one, which did publish.
        try:
            with self.tools.database.read() as session:
                if was_published(session, claim):
                    log.info("published %s, as the catalogue says after a lost answer", claim.key[:12])
                    return
        except DatabaseUnavailable as database_error:
            log.warning("cannot find out whether %s was published: %s", claim.key[:12], database_error.detail)
        log.warning("not published: %s", error)
        self._save_log(stage_run)

    def finish_stopped(self, stage_run: StageRun) -> None:
        """After a stop: hand the action back if this worker is leaving; write nothing if its lease is lost."""
        claim, lost = stage_run.claim, stage_run.heartbeat.lost
        if lost is not None:
            log.warning("stopped %s: %s", claim.key[:12], lost)
            stage_run.joblog.say(f"stopped: {lost}")
        else:
            log.info("handing %s back: this worker is leaving", claim.key[:12])
            stage_run.joblog.say("handed back: this worker is leaving")
            self._end(stage_run, partial(self.hand_back, claim))
        self._save_log(stage_run)

    def hand_back(self, claim: Claim, queue: str | None = None) -> list[Announcement]:
        """Queue the action again at once, in `queue` if it is given; the attempt does not count as a try."""
        with self.tools.database.write() as session:
            return [hand_back(session, claim, queue=queue)]

    def fail_at_the_start(self, claim: Claim, error: Exception) -> None:
        """Record that this worker could not begin the attempt: no folder, no file for the log, no thread."""
        failure = cannot_begin(error)
        log.error("attempt %d of %s could not begin: %s", claim.attempt, claim.key[:12], message_of(error))
        try:
            announcements = self.record_failure(claim, {}, error, failure)
        except Fenced as fenced:
            log.warning("the end of the attempt does not count, or counts already: %s", fenced)
        except DatabaseUnavailable as database_error:
            log.warning("the end of %s is not recorded, the sweep will notice: %s", claim.key[:12], database_error)
        else:
            self.announcer.announce(announcements)

    def finish_failed(self, stage_run: StageRun, error: Exception) -> None:
        """After a failure: explain it, save the log, record it as the end of the attempt."""
        failure = explain(error)
        # A caller reads only "internal": the traceback is for the person who runs the farm.
        if failure.cause == "internal":
            claim = stage_run.claim
            log.error("attempt %d of %s met a defect", claim.attempt, claim.key[:12], exc_info=error)
        stage_run.joblog.say(f"failed: {failure.cause}: {failure.detail}")
        # Before the end is recorded, so that a caller who reads the failure can read the whole log.
        self._save_log(stage_run)
        self._end(stage_run, partial(self.record_failure, stage_run.claim, stage_run.steps, error, failure))

    def record_failure(
        self, claim: Claim, steps: dict[str, float], error: Exception, failure: Failure
    ) -> list[Announcement]:
        """Record the failure, and what follows: a damaged checkpoint is withdrawn, a sick worker is quarantined."""
        settings = self.settings
        announcements: list[Announcement] = []
        with self.tools.database.write() as session:
            if isinstance(error, StartDamaged):
                announcements = withdraw_damaged_checkpoint(
                    session, claim, error.digest, failure, max_tries=settings.max_tries, steps=steps
                )
            else:
                fail_attempt(session, claim, failure, max_tries=settings.max_tries, steps=steps)
            # In the same transaction, because it counts this failure: a sick worker must not claim once more.
            quarantine_reason = quarantine_if_sick(session, self.tools.identity.id, after=settings.quarantine_after)
        if quarantine_reason is not None:
            log.error("this worker is quarantined: %s", quarantine_reason)
        return announcements

    def _end(self, stage_run: StageRun, write: Callable[[], list[Announcement]]) -> None:
        """Record how the attempt ended, unless its lease is lost, and announce what follows."""
        try:
            announcements = self._while_leased(stage_run)(write)
        except Fenced as error:
            log.warning("the end of the attempt does not count, or counts already: %s", error)
        except DatabaseUnavailable as error:
            log.warning("the end of %s is not recorded, the sweep will notice: %s", stage_run.claim.key[:12], error)
        else:
            self.announcer.announce(announcements)

    def _while_leased(self, stage_run: StageRun) -> Retrying:
        """A caller that repeats a write while the catalogue or the store is away, until the lease is given up.

        The heartbeat counts the attempt as ending from now on. Safe to repeat: each write is conditional on the
        attempt. One that was committed without an answer makes its repetition Fenced.
        """
        stage_run.heartbeat.ending = True

        def warn(state: RetryCallState) -> None:
            assert state.outcome is not None
            log.warning("cannot write the end of %s yet: %s", stage_run.claim.key[:12], state.outcome.exception())

        return Retrying(
            retry=retry_if_exception_type((DatabaseUnavailable, StoreUnavailable)),
            stop=lambda _: stage_run.heartbeat.lost is not None,
            wait=wait_fixed(_RETRY_SECONDS),
            before_sleep=warn,
            reraise=True,
        )

    def _save_log(self, stage_run: StageRun) -> None:
        """Upload the log and record it, if the store and the catalogue answer.

        An attempt that failed because the store is away cannot save its log there. The pieces that the heartbeat sent
        stay in the catalogue then.
        """
        claim = stage_run.claim
        try:
            log_blob = upload_log(self.tools.store, stage_run.joblog)
            with self.tools.database.write() as session:
                record_log(session, claim.key, claim.attempt, log_blob)
                require_stored(self.tools.store, dict([log_blob]))
        except EnginefarmError as error:
            log.warning("the log of %s stays in pieces: %s", claim.key[:12], error.detail)
        except Exception as error:
            # The attempt's end must be recorded all the same.
            log.exception("the log of %s stays in pieces: %s", claim.key[:12], message_of(error))
