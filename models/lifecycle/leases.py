"""Leases: how a worker claims an action, keeps it, and loses it. The attempt number is the fencing token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.work import Work, read_work
from enginefarm.wire.bodies import Failure, Fault
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow
from models.catalogue.states import ActionState, Fenced, Outcome, sources
from models.catalogue.visibility import checkpoint_of
from models.fleet.worker_states import refusal_of
from models.lifecycle.retry_policy import backoff, killed_for_memory, larger_queue, others_serve, with_history
from models.lifecycle.transitions import end_attempt, fail_action, requeue
from models.queue.names import Announcement


@dataclass(frozen=True)
class Claim:
    """One attempt, owned. Everything a worker does to the row carries `attempt`."""

    key: str
    attempt: int
    tries: int
    stage: str
    queue: str
    document: dict[str, Any]
    stored_work: dict[str, Any]
    checkpoint: str | None  # manifest digest of what a build starts from
    worker_id: str

    @cached_property
    def work(self) -> Work:
        """Read on first use, not by the claim: a worker that cannot read the work must own the attempt to end it.

        Raises:
            UnreadableWork: another worker must do it.
        """
        return read_work(self.stored_work)


def claim_action(session: Session, key: str, worker_id: str, *, lease_seconds: float) -> Claim | None:
    """Take a queued action whose time has come. None: somebody has it, it no longer needs doing,
    others go first, or this worker takes nothing new."""
    taken = session.execute(
        update(ActionRow)
        .where(
            ActionRow.key == key,
            ActionRow.state.in_(sources(ActionState.RUNNING, ActionState)),
            _due(),
            _not_avoiding(worker_id),
            ~refusal_of(worker_id),
        )
        .values(
            state=str(ActionState.RUNNING),
            attempt=ActionRow.attempt + 1,
            tries=ActionRow.tries + 1,
            worker_id=worker_id,
            lease_expires_at=now(lease_seconds),
            progress=0.0,
            message=None,
            avoid_worker=None,
            avoid_until=None,
        )
        .returning(ActionRow)
        .execution_options(populate_existing=True)
    ).scalar_one_or_none()
    if taken is None:
        return None
    session.add(AttemptRow(action_key=key, number=taken.attempt, worker_id=worker_id, outcome=str(Outcome.RUNNING)))
    checkpoint = checkpoint_of(session, taken.depends_on) if taken.depends_on else None
    return Claim(
        key=key,
        attempt=taken.attempt,
        tries=taken.tries,
        stage=taken.stage,
        queue=taken.queue,
        document=taken.document,
        stored_work=taken.work,
        checkpoint=checkpoint.manifest if checkpoint else None,
        worker_id=worker_id,
    )


def reserved_for_others(session: Session, key: str, worker_id: str) -> Announcement | None:
    """The action, if this worker could not claim it only because others go first, or because it takes nothing new:
    tell them again."""
    where = (ActionRow.key == key, ActionRow.state == ActionState.QUEUED, _due())
    ours = or_(~_not_avoiding(worker_id), refusal_of(worker_id))
    row = session.execute(select(ActionRow.key, ActionRow.queue).where(*where, ours)).one_or_none()
    return (row.key, row.queue) if row is not None else None


def _due() -> ColumnElement[bool]:
    return or_(ActionRow.not_before.is_(None), ActionRow.not_before <= now())


def _not_avoiding(worker_id: str) -> ColumnElement[bool]:
    return or_(
        ActionRow.avoid_worker.is_(None), ActionRow.avoid_worker != worker_id, ActionRow.avoid_until <= now()
    )  # fmt: skip


def renew(
    session: Session, held: Claim, *, lease_seconds: float, progress: float | None = None, message: str | None = None
) -> None:
    """Keep the lease, and say how far the stage is.

    Raises:
        Fenced: the lease is lost: it ran out, or the action was cancelled. Kill the child.
    """
    values: dict[str, Any] = {"lease_expires_at": now(lease_seconds)}
    if progress is not None:
        values["progress"] = min(max(progress, 0.0), 1.0)
    if message is not None:
        values["message"] = message[:500]
    done = session.execute(update(ActionRow).where(*_held(held)).values(**values))
    if done.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        raise Fenced(f"the lease on {held.key[:12]}, attempt {held.attempt}, is lost")


def _held(held: Claim) -> tuple[Any, ...]:
    return (ActionRow.key == held.key, ActionRow.state == ActionState.RUNNING, ActionRow.attempt == held.attempt)


def was_published(session: Session, held: Claim) -> bool:
    """Whether this very attempt succeeded: a fenced writer may have been fenced by its own first, unanswered commit."""
    ours = (ActionRow.key == held.key, ActionRow.attempt == held.attempt, ActionRow.state == ActionState.SUCCEEDED)
    return session.execute(select(ActionRow.key).where(*ours)).first() is not None


def hand_back(session: Session, held: Claim) -> Announcement:
    """The worker was told to stop: the action goes back, and this try does not count."""
    announcement = requeue(session, held.key, attempt=held.attempt, tries=ActionRow.tries - 1)
    end_attempt(session, held.key, held.attempt, Outcome.HANDED_BACK)
    return announcement


def fail_attempt(session: Session, held: Claim, failure: Failure, *, max_tries: int, steps: dict[str, float]) -> None:
    """End the attempt with its failure: queue the action again if that can help, else fail it.

    Raises:
        Fenced: the lease was lost before.
    """
    tries_left = held.tries < max_tries
    if killed_for_memory(failure) and tries_left and (queue := larger_queue(session, held.queue, held.worker_id)):
        requeue(session, held.key, attempt=held.attempt, queue=queue)
    elif failure.retryable and tries_left:
        avoid = held.worker_id if others_serve(session, held.queue, held.worker_id) else None
        requeue(session, held.key, attempt=held.attempt, delay_seconds=backoff(held.tries), avoid=avoid)
    else:
        reason = with_history(session, held.key, failure, tries=held.tries)
        fail_action(session, held.key, reason, attempt=held.attempt)
    end_attempt(session, held.key, held.attempt, Outcome.FAILED, failure=failure, steps=steps)


def expire(session: Session, *, max_tries: int) -> list[Announcement]:
    """Take back every lease that ran out. Safe with many sweeps at once: each row moves once."""
    overdue = session.execute(
        select(ActionRow.key, ActionRow.attempt, ActionRow.tries, ActionRow.worker_id, ActionRow.queue)
        .where(ActionRow.state == ActionState.RUNNING, ActionRow.lease_expires_at < now())
        .with_for_update(skip_locked=True, key_share=True)
    ).all()
    announcements = []
    for row in overdue:
        failure = Failure(
            cause="worker_lost",
            fault=Fault.WORKER,
            detail=f"worker {row.worker_id} stopped renewing its lease in attempt {row.attempt}",
            advice="look at that worker's log and the kernel log of its machine (out of memory, reboot)",
            retryable=True,
        )
        if row.tries < max_tries:
            # No further pause: the lease was one, and a lost worker's action is promised again within 30 s.
            avoid = row.worker_id if others_serve(session, row.queue, row.worker_id) else None
            announcements.append(requeue(session, row.key, attempt=row.attempt, avoid=avoid))
        else:
            reason = with_history(session, row.key, failure, tries=row.tries)
            fail_action(session, row.key, reason, attempt=row.attempt)
        end_attempt(session, row.key, row.attempt, Outcome.LOST, failure=failure)
    return announcements
