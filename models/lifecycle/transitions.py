"""Moves of an action's row: each is one conditional UPDATE, and an UPDATE of no row is an error.

Lock order, everywhere: blobs, convert actions, the build actions that depend on them, builds, workers, locks of GPUs;
several of one kind by key. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import Failure
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, LogChunkRow
from models.catalogue.states import IN_FLIGHT, ActionState, BuildRowState, Fenced, Outcome, leaving, sources
from models.lifecycle.blobs import record_blobs
from models.queue.names import Announcement

_OTHERS_FIRST_SECONDS = 15.0  # a longer time would keep the action from the only worker that is free


def move(
    session: Session,
    key: str,
    to: ActionState,
    *,
    among: Iterable[ActionState] = tuple(ActionState),
    attempt: int | None = None,
    **values: Any,
) -> None:
    """Move one action to `to` and set `values`.

    The action must be in a state of `among` that may move to `to` and, if given, in `attempt`.

    Raises:
        Fenced: it is not; nothing was changed.
    """
    # One statement checks and moves, so that of two transactions only one moves the action.
    where = [ActionRow.key == key, ActionRow.state.in_(sources(to, among))]
    if attempt is not None:
        where.append(ActionRow.attempt == attempt)
    result = session.execute(update(ActionRow).where(*where).values(state=str(to), **leaving(to), **values))
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        raise Fenced(f"{key[:12]} cannot move to {to} (attempt {attempt})")


def lock_action(session: Session, key: str) -> ActionRow | None:
    """The row as it is now, locked until the transaction ends; None if there is none. SQLite locks all rows at BEGIN.

    The lock does not stop transactions that only refer to the row (NO KEY UPDATE): PostgreSQL checks `depends_on` when
    a row is updated for the second time in a transaction. With a full lock, such a transaction would wait for this one
    while it holds the dependent row.
    """
    query = select(ActionRow).where(ActionRow.key == key).with_for_update(key_share=True)
    return session.execute(query.execution_options(populate_existing=True)).scalar_one_or_none()


def end_attempt(
    session: Session,
    key: str,
    number: int,
    outcome: Outcome,
    *,
    failure: Failure | None = None,
    steps: dict[str, float] | None = None,
    log: tuple[str, int] | None = None,
) -> None:
    """Close the attempt if it runs. `steps` are seconds by step; `log` is the stored log's digest and size in bytes."""
    values: dict[str, Any] = {"outcome": str(outcome), "ended_at": now()}
    if failure is not None:
        values["failure"] = failure.model_dump(mode="json")
    if steps is not None:
        values["steps"] = steps
    # An attempt that another transaction ended keeps the outcome that it got first.
    running = (AttemptRow.action_key == key, AttemptRow.number == number, AttemptRow.outcome == Outcome.RUNNING)
    session.execute(update(AttemptRow).where(*running).values(**values))
    if log is not None:
        record_log(session, key, number, log)


def record_log(session: Session, key: str, number: int, log: tuple[str, int]) -> None:
    """Record the complete stored log (digest, bytes) of an attempt and remove its live pieces.

    A fenced attempt has its log recorded as well: a person who looks into it needs its output.
    """
    digest, size = log
    record_blobs(session, {digest: size})
    attempt = (AttemptRow.action_key == key, AttemptRow.number == number)
    session.execute(update(AttemptRow).where(*attempt).values(log_digest=digest, log_size=size))
    # The pieces have the same bytes at the same offsets: a reader goes on in the blob.
    session.execute(delete(LogChunkRow).where(LogChunkRow.action_key == key, LogChunkRow.attempt == number))


def end_builds(session: Session, key: str, state: BuildRowState, failure: Failure | None = None) -> None:
    """End every open build of the action. A build that its caller cancelled before keeps that state."""
    values: dict[str, Any] = {"state": str(state), "ended_at": now()}
    if failure is not None:
        values["failure"] = failure.model_dump(mode="json")
    open_builds = (BuildRow.key == key, BuildRow.state == BuildRowState.OPEN)
    session.execute(update(BuildRow).where(*open_builds).values(**values))


def release_dependents(session: Session, key: str) -> list[Announcement]:
    """Queue every build action that waits for this convert action, whose checkpoint is published."""
    queued = session.execute(
        update(ActionRow)
        .where(ActionRow.depends_on == key, ActionRow.state == ActionState.WAITING)
        # The place in the queue counts from now: before, no worker could have run the action.
        .values(state=str(ActionState.QUEUED), queued_at=now())
        .returning(ActionRow.key, ActionRow.queue)
    )
    return [Announcement(row.key, row.queue) for row in queued]


def fail_action(session: Session, key: str, failure: Failure, *, attempt: int | None = None) -> None:
    """End an action, its builds, and all actions that wait for it, with the failure.

    Raises:
        Fenced: `attempt` does not run any more; without `attempt`, the action has ended.
    """
    among: Collection[ActionState] = IN_FLIGHT
    if attempt is not None:
        # Whoever names an attempt acts for it, and a fenced attempt must change nothing.
        among = [ActionState.RUNNING]
    move(session, key, ActionState.FAILED, among=among, attempt=attempt, failure=failure.model_dump(mode="json"))
    end_builds(session, key, BuildRowState.FAILED, failure)
    # One level deep: builds wait for conversions, and nothing waits for a build action.
    for dependent in waiting_dependents(session, key):
        fail_action(session, dependent, failure)


def requeue(
    session: Session,
    key: str,
    *,
    attempt: int,
    delay_seconds: float = 0,
    avoid: str | None = None,
    **values: Any,
) -> Announcement:
    """Queue a running action again, to be tried after `delay_seconds`.

    The worker with the id `avoid` may claim it only some seconds after other workers.

    Raises:
        Fenced: `attempt` does not run any more.
    """
    not_before = None
    if delay_seconds > 0:
        not_before = now(delay_seconds)
    avoid_until = None
    if avoid is not None:
        # From the end of the pause: before it, no worker may claim the action anyway.
        avoid_until = now(delay_seconds + _OTHERS_FIRST_SECONDS)
    # announced_at=None: the sweep announces the action if its message is lost, or once its pause is over.
    move(
        session, key, ActionState.QUEUED, among=[ActionState.RUNNING], attempt=attempt,
        queued_at=now(), not_before=not_before, announced_at=None, progress=0.0, message=None,
        avoid_worker=avoid, avoid_until=avoid_until, **values,
    )  # fmt: skip
    queue = session.execute(select(ActionRow.queue).where(ActionRow.key == key)).scalar_one()
    return Announcement(key, queue)


def queue_at_once(session: Session, row: ActionRow) -> None:
    """Make a locked action claimable now, whatever its state.

    A worker that runs it is fenced, and kills its programs at the next heartbeat.
    """
    if row.state == ActionState.RUNNING:
        end_attempt(session, row.key, row.attempt, Outcome.CANCELLED)
    if row.state != ActionState.QUEUED:
        move(session, row.key, ActionState.QUEUED, failure=None)
    # An action that was queued before may be in the pause after a failure, or reserved for other workers.
    at_once = {"not_before": None, "avoid_worker": None, "avoid_until": None}
    session.execute(update(ActionRow).where(ActionRow.key == row.key).values(**at_once))


def cancel_if_unneeded(session: Session, key: str) -> None:
    """Cancel an action that no open build and no other action waits for; then do the same for what it waited for."""
    row = session.get(ActionRow, key)  # without a lock, for `depends_on`, which never changes
    if row is not None and row.depends_on is not None:
        lock_action(session, row.depends_on)  # before the row that depends on it: the lock order
    row = lock_action(session, key)
    if row is None or row.state not in IN_FLIGHT or is_needed(session, key):
        return
    was_running = row.state == ActionState.RUNNING
    move(session, key, ActionState.CANCELLED)
    if was_running:  # its worker is fenced at the next heartbeat and kills its programs
        end_attempt(session, key, row.attempt, Outcome.CANCELLED)
    if row.depends_on is not None:
        cancel_if_unneeded(session, row.depends_on)


def is_needed(session: Session, key: str) -> bool:
    """True if an open build or another action waits for this action."""
    open_build = select(BuildRow.seq).where(BuildRow.key == key, BuildRow.state == BuildRowState.OPEN).limit(1)
    return session.execute(open_build).first() is not None or bool(waiting_dependents(session, key))


def waiting_dependents(session: Session, key: str) -> Sequence[str]:
    """The keys of the build actions that wait for this convert action, in order."""
    where = (ActionRow.depends_on == key, ActionRow.state == ActionState.WAITING)
    return session.execute(select(ActionRow.key).where(*where).order_by(ActionRow.key)).scalars().all()
