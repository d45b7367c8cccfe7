"""Leases: a worker claims an action, renews its lease, and ends or loses it. The attempt number is the fencing token.

Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.work import Work, read_work
from enginefarm.wire.bodies import Failure, Fault
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow, GpuLockRow
from models.catalogue.states import ActionState, Fenced, Outcome, sources
from models.catalogue.visibility import checkpoint_of
from models.fleet.roster import live_workers
from models.fleet.worker_states import refusal_of
from models.lifecycle.retry_policy import backoff, lacked_memory, larger_queue, others_serve, with_history
from models.lifecycle.transitions import end_attempt, fail_action, requeue
from models.queue.names import Announcement
from models.queue.order import is_avoiding, is_due, next_turn, record_overtaking


@dataclass(frozen=True)
class Claim:
    """One attempt, leased to a worker. Every later change that the worker makes names `attempt`."""

    key: str
    attempt: int
    tries: int
    stage: str
    queue: str
    document: dict[str, Any]
    stored_work: dict[str, Any]
    checkpoint: str | None  # manifest digest of what a build starts from
    worker_id: str
    inputs: str | None = None  # what the worker fetches first: see ActionRow.inputs
    gpu_lock_seconds: float = 0.0  # how long a renewal extends its locks of GPUs; 0: it has none

    @cached_property
    def work(self) -> Work:
        """Read on first use, not by the claim: a worker that cannot read the work must own the attempt to end it.

        Raises:
            UnreadableWork: another worker must do it.
        """
        return read_work(self.stored_work)


def claim_next(
    session: Session, queue: str, worker_id: str, *, lease_seconds: float, held: Sequence[str] = ()
) -> Claim | None:
    """Claim the action of this queue whose turn it is, and start its next attempt.

    Returns None if nothing is due that this worker may claim, or if it refuses new work: see `left_in_queue`.

    Args:
        held: the inputs that the worker's node has, as `ActionRow.inputs` names them; see models.queue.order.
    """
    choice = next_turn(session, queue, worker_id, held)
    if choice is None:
        return None
    claim = claim_action(session, choice.key, worker_id, lease_seconds=lease_seconds)
    if claim is not None and choice.overtaken is not None:
        record_overtaking(session, choice.overtaken)
    return claim


def claim_action(session: Session, key: str, worker_id: str, *, lease_seconds: float) -> Claim | None:
    """Claim this action, and start its next attempt. Returns None as `claim_next` does."""
    # One conditional UPDATE decides between workers that claim at once: the second finds the action running.
    row = session.execute(
        update(ActionRow)
        .where(
            ActionRow.key == key,
            ActionRow.state.in_(sources(ActionState.RUNNING, ActionState)),
            is_due(),
            ~is_avoiding(worker_id),
            ~refusal_of(worker_id),
        )
        .values(
            state=str(ActionState.RUNNING),
            attempt=ActionRow.attempt + 1,  # fences every earlier attempt
            tries=ActionRow.tries + 1,
            worker_id=worker_id,
            lease_expires_at=now(lease_seconds),
            progress=0.0,
            message=None,
            # The reservation was for this try only, and so were the turns that others took.
            avoid_worker=None,
            avoid_until=None,
            overtaken=None,
            overtaken_at=None,
            prefetched_by=None,
            prefetched_until=None,
        )
        .returning(ActionRow)
        # The session may have read the row before, and would return those values instead of the new ones.
        .execution_options(populate_existing=True)
    ).scalar_one_or_none()
    if row is None:
        return None
    # A unique index allows one running attempt of an action, and so refuses a second claim even if this code is wrong.
    session.add(AttemptRow(action_key=key, number=row.attempt, worker_id=worker_id, outcome=str(Outcome.RUNNING)))
    manifest = None
    if row.depends_on is not None:
        checkpoint = checkpoint_of(session, row.depends_on)
        if checkpoint is not None:
            manifest = checkpoint.manifest
    return Claim(
        key=key,
        attempt=row.attempt,
        tries=row.tries,
        stage=row.stage,
        queue=row.queue,
        document=row.document,
        stored_work=row.work,
        checkpoint=manifest,
        worker_id=worker_id,
        inputs=row.inputs,
    )


@dataclass(frozen=True)
class LeftInQueue:
    """A due action that a worker did not claim after a message of its queue: it must be announced again.

    `reserved`: this worker may not claim it, because others go first or because it refuses new work. Otherwise another
    transaction had locked the action for a moment.
    """

    announcement: Announcement
    reserved: bool


def left_in_queue(session: Session, queue: str, worker_id: str) -> LeftInQueue | None:
    """Return what is left in the queue for others, after a claim of this worker found nothing. None: nothing is due."""
    oldest = select(ActionRow.key).where(ActionRow.queue == queue, is_due()).order_by(ActionRow.queued_at).limit(1)
    claimable = oldest.where(~is_avoiding(worker_id), ~refusal_of(worker_id))
    key = session.execute(claimable).scalar_one_or_none()
    if key is not None:
        return LeftInQueue(Announcement(key, queue), reserved=False)
    key = session.execute(oldest).scalar_one_or_none()
    if key is not None:
        return LeftInQueue(Announcement(key, queue), reserved=True)
    return None


def has_action(session: Session, key: str) -> bool:
    """True if the catalogue has an action with this key, in whichever state."""
    return session.execute(select(ActionRow.key).where(ActionRow.key == key)).one_or_none() is not None


def renew(
    session: Session, claim: Claim, *, lease_seconds: float, progress: float | None = None, message: str | None = None
) -> None:
    """Extend the lease and the attempt's locks of GPUs, and record the stage's progress (0 to 1) and message.

    Raises:
        Fenced: the lease is lost: it expired, or the action was cancelled. The worker must kill its programs.
    """
    values: dict[str, Any] = {"lease_expires_at": now(lease_seconds)}
    if progress is not None:
        # A toolchain may report any number, and the schema refuses others: that must not cost the lease.
        values["progress"] = min(max(progress, 0.0), 1.0)
    if message is not None:
        values["message"] = message[:500]  # each heartbeat writes it; the log has the complete line
    result = session.execute(update(ActionRow).where(*_leased(claim)).values(**values))
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        raise lost_lease(claim)
    if claim.gpu_lock_seconds:
        # Those that were released are gone.
        locks = update(GpuLockRow).where(GpuLockRow.action_key == claim.key, GpuLockRow.attempt == claim.attempt)
        expires_at = now(claim.gpu_lock_seconds)
        session.execute(locks.values(expires_at=expires_at), execution_options={"synchronize_session": False})


def require_lease(session: Session, claim: Claim) -> None:
    """
    Raises:
        Fenced: the lease is lost.
    """
    if session.execute(select(ActionRow.key).where(*_leased(claim))).first() is None:
        raise lost_lease(claim)


def lost_lease(claim: Claim) -> Fenced:
    return Fenced(f"the lease on {claim.key[:12]}, attempt {claim.attempt}, is lost")


def _leased(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    # By the attempt and not by the worker: a worker may lose an action and claim it again later.
    return (ActionRow.key == claim.key, ActionRow.state == ActionState.RUNNING, ActionRow.attempt == claim.attempt)


def was_published(session: Session, claim: Claim) -> bool:
    """True if this very attempt succeeded.

    A fenced publisher asks this: its first commit may have succeeded without an answer, and so fenced its second.
    """
    succeeded = (
        ActionRow.key == claim.key,
        ActionRow.attempt == claim.attempt,
        ActionRow.state == ActionState.SUCCEEDED,
    )
    return session.execute(select(ActionRow.key).where(*succeeded)).first() is not None


def hand_back(session: Session, claim: Claim, *, queue: str | None = None) -> Announcement:
    """Queue the action again because the worker is being stopped, or because `queue` is the right one for it.

    This try does not count.

    Raises:
        Fenced: the lease was lost before.
    """
    # Restarts of workers must not use up the tries of a long build.
    values: dict[str, Any] = {"tries": ActionRow.tries - 1}
    if queue is not None:
        values["queue"] = queue
    announcement = requeue(session, claim.key, attempt=claim.attempt, **values)
    end_attempt(session, claim.key, claim.attempt, Outcome.HANDED_BACK)
    return announcement


def fail_attempt(session: Session, claim: Claim, failure: Failure, *, max_tries: int, steps: dict[str, float]) -> None:
    """End the attempt with its failure: queue the action again if that can help, else fail the action.

    `steps` are seconds by step.

    Raises:
        Fenced: the lease was lost before.
    """
    tries_left = claim.tries < max_tries
    memory_queue = None
    if tries_left and lacked_memory(failure):
        memory_queue = larger_queue(session, claim.queue, claim.worker_id)
    if memory_queue is not None:
        # Without a pause: waiting adds no memory to a machine, and the next one is another.
        requeue(session, claim.key, attempt=claim.attempt, queue=memory_queue)
    elif tries_left and failure.retryable:
        # The fault may be the machine's, so another worker goes first if there is one.
        avoid = None
        if others_serve(live_workers(session), claim.queue, claim.worker_id):
            avoid = claim.worker_id
        requeue(session, claim.key, attempt=claim.attempt, delay_seconds=backoff(claim.tries), avoid=avoid)
    else:
        reason = with_history(session, claim.key, failure, tries=claim.tries)
        fail_action(session, claim.key, reason, attempt=claim.attempt)
    end_attempt(session, claim.key, claim.attempt, Outcome.FAILED, failure=failure, steps=steps)


def expire(session: Session, *, max_tries: int) -> list[Announcement]:
    """Take back every lease that expired. Safe with many sweeps at once: each row moves once."""
    overdue = session.execute(
        select(ActionRow.key, ActionRow.attempt, ActionRow.tries, ActionRow.worker_id, ActionRow.queue)
        .where(ActionRow.state == ActionState.RUNNING, ActionRow.lease_expires_at < now())
        # A locked row is in the hands of another sweep, or of the worker's own late heartbeat.
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    announcements: list[Announcement] = []
    if not overdue:
        return announcements
    # Once: a host that dies with all its workers, or an outage of the network, ends many leases at the same time.
    fleet = live_workers(session)
    for row in overdue:
        failure = Failure(
            cause="worker_lost",
            fault=Fault.WORKER,
            detail=f"worker {row.worker_id} stopped renewing its lease in attempt {row.attempt}",
            advice="look at that worker's log and the kernel log of its machine (out of memory, reboot)",
            retryable=True,
        )
        if row.tries < max_tries:
            # No pause, because the lease was one: promise I4 of docs/reliability.md allows 30 s until the next lease.
            avoid = None
            if others_serve(fleet, row.queue, row.worker_id):
                avoid = row.worker_id
            announcements.append(requeue(session, row.key, attempt=row.attempt, avoid=avoid))
        else:
            # An action that loses worker after worker may be what kills them: see ADR 0002.
            reason = with_history(session, row.key, failure, tries=row.tries)
            fail_action(session, row.key, reason, attempt=row.attempt)
        end_attempt(session, row.key, row.attempt, Outcome.LOST, failure=failure)
    return announcements
