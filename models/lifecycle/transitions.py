"""Moves of an action's row: each is one conditional UPDATE, and zero rows is an error.

Lock order, everywhere: blobs, convert actions, the build actions that depend on them, builds, workers; of one kind
by key. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import Failure
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, LogChunkRow
from models.catalogue.states import IN_FLIGHT, ActionState, BuildRowState, Fenced, Outcome, leaving, sources
from models.lifecycle.blobs import record_blobs
from models.queue.names import Announcement

_OTHERS_FIRST_SECONDS = 15.0  # longer would keep a build from the only worker that is free


def move(
    session: Session,
    key: str,
    to: ActionState,
    *,
    among: Iterable[ActionState] = tuple(ActionState),
    attempt: int | None = None,
    **values: Any,
) -> None:
    """Move one action to `to`, if it is in one of `among` that may go there and, if given, in `attempt`.

    Raises:
        Fenced: it is not; nothing was changed.
    """
    where = [ActionRow.key == key, ActionRow.state.in_(sources(to, among))]
    if attempt is not None:
        where.append(ActionRow.attempt == attempt)
    done = session.execute(update(ActionRow).where(*where).values(state=str(to), **leaving(to), **values))
    if done.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        raise Fenced(f"{key[:12]} cannot move to {to} (attempt {attempt})")


def lock_action(session: Session, key: str) -> ActionRow | None:
    """The row as it is now, held until the transaction ends (SQLite holds the whole database already).

    Not against those who only refer to it (NO KEY UPDATE): PostgreSQL looks at `depends_on` when a row is updated for
    the second time in a transaction, and would then wait for this lock with the dependent row in its hands.
    """
    held = select(ActionRow).where(ActionRow.key == key).with_for_update(key_share=True)
    return session.execute(held.execution_options(populate_existing=True)).scalar_one_or_none()


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
    """Close the attempt; with its `log` (digest, bytes) in the store, the live pieces of it go."""
    values: dict[str, Any] = {"outcome": str(outcome), "ended_at": now()}
    if failure is not None:
        values["failure"] = failure.model_dump(mode="json")
    if steps is not None:
        values["steps"] = steps
    which = (AttemptRow.action_key == key, AttemptRow.number == number)
    session.execute(update(AttemptRow).where(*which, AttemptRow.outcome == Outcome.RUNNING).values(**values))
    if log is not None:
        record_log(session, key, number, log)


def record_log(session: Session, key: str, number: int, log: tuple[str, int]) -> None:
    """Name the whole log of an attempt, fenced or not: what it wrote is worth reading all the same."""
    record_blobs(session, dict([log]))
    which = (AttemptRow.action_key == key, AttemptRow.number == number)
    session.execute(update(AttemptRow).where(*which).values(log_digest=log[0], log_size=log[1]))
    session.execute(delete(LogChunkRow).where(LogChunkRow.action_key == key, LogChunkRow.attempt == number))


def end_builds(session: Session, key: str, state: BuildRowState, failure: Failure | None = None) -> None:
    """End every open build of the action."""
    session.execute(
        update(BuildRow)
        .where(BuildRow.key == key, BuildRow.state == BuildRowState.OPEN)
        .values(state=str(state), ended_at=now(), failure=failure.model_dump(mode="json") if failure else None)
    )


def release_dependents(session: Session, key: str) -> list[Announcement]:
    """The checkpoint is there: queue every build action that waits for it."""
    freed = session.execute(
        update(ActionRow)
        .where(ActionRow.depends_on == key, ActionRow.state == ActionState.WAITING)
        .values(state=str(ActionState.QUEUED), queued_at=now())
        .returning(ActionRow.key, ActionRow.queue)
    )
    return [(row.key, row.queue) for row in freed]


def fail_action(session: Session, key: str, failure: Failure, *, attempt: int | None = None) -> None:
    """End an action, its builds, and everything that waits for it, with the reason.

    Raises:
        Fenced: that attempt does not run any more; without one, the action has ended.
    """
    among = IN_FLIGHT if attempt is None else [ActionState.RUNNING]
    move(session, key, ActionState.FAILED, among=among, attempt=attempt, failure=failure.model_dump(mode="json"))
    end_builds(session, key, BuildRowState.FAILED, failure)
    for waiting in waiting_dependents(session, key):
        fail_action(session, waiting, failure)


def requeue(
    session: Session,
    key: str,
    *,
    attempt: int,
    delay_seconds: float = 0,
    avoid: str | None = None,
    **values: Any,
) -> Announcement:
    """Give a running action back to its queue, to be tried again after `delay_seconds`.

    The worker `avoid` leaves it to others for a while longer.
    """
    not_before = now(delay_seconds) if delay_seconds else None
    avoid_until = now(delay_seconds + _OTHERS_FIRST_SECONDS) if avoid else None
    move(
        session, key, ActionState.QUEUED, among=[ActionState.RUNNING], attempt=attempt,
        queued_at=now(), not_before=not_before, announced_at=None, progress=0.0, message=None,
        avoid_worker=avoid, avoid_until=avoid_until, **values,
    )  # fmt: skip
    return key, session.execute(select(ActionRow.queue).where(ActionRow.key == key)).scalar_one()


def cancel_if_unneeded(session: Session, key: str) -> None:
    """Cancel an action that no open build and no other action waits for; then look at what it waited for."""
    row = session.get(ActionRow, key)
    if row is not None and row.depends_on is not None:
        lock_action(session, row.depends_on)  # before the row that depends on it, as the lock order says
    row = lock_action(session, key)
    if row is None or row.state not in IN_FLIGHT or _needed(session, key):
        return
    running = row.state == ActionState.RUNNING
    move(session, key, ActionState.CANCELLED)
    if running:  # its worker finds out at the next heartbeat and kills the child
        end_attempt(session, key, row.attempt, Outcome.CANCELLED)
    if row.depends_on is not None:
        cancel_if_unneeded(session, row.depends_on)


def _needed(session: Session, key: str) -> bool:
    open_build = select(BuildRow.seq).where(BuildRow.key == key, BuildRow.state == BuildRowState.OPEN).limit(1)
    return session.execute(open_build).first() is not None or bool(waiting_dependents(session, key))


def waiting_dependents(session: Session, key: str) -> Sequence[str]:
    where = (ActionRow.depends_on == key, ActionRow.state == ActionState.WAITING)
    return session.execute(select(ActionRow.key).where(*where).order_by(ActionRow.key)).scalars().all()
