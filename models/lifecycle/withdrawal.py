"""Take out what must not be used: engines, and checkpoints with everything that was to start from them.

Nothing is deleted. An engine that was taken out is not served and not "cached": the next submit builds it anew,
and publishing brings it back.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, CheckpointRow, EngineRow
from models.catalogue.states import CLOSED, ActionState, Outcome
from models.catalogue.visibility import SERVED, USABLE
from models.lifecycle.transitions import end_attempt, lock_action, move, waiting_dependents
from models.queue.names import Announcement

_STARTED = (ActionState.QUEUED, ActionState.RUNNING)


def withdraw_engine(session: Session, key: str, reason: str) -> bool:
    """False if it was out before."""
    done = session.execute(
        update(EngineRow)
        .where(EngineRow.key == key, SERVED)
        .values(quarantined_at=now(), quarantine_reason=reason)
    )  # fmt: skip
    return bool(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def withdraw_checkpoint(session: Session, key: str, reason: str) -> list[Announcement]:
    """Take the checkpoint out; what was to start from it waits for it to be converted anew."""
    lock_action(session, key)
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.key == key, USABLE)
        .values(quarantined_at=now(), quarantine_reason=reason)
    )
    for build in _started_from(session, key):
        _wait_again(session, build)
    return _convert_again(session, key) if waiting_dependents(session, key) else []


def _started_from(session: Session, key: str) -> list[ActionRow]:
    where = (ActionRow.depends_on == key, ActionRow.state.in_(_STARTED))
    found = select(ActionRow).where(*where).order_by(ActionRow.key).with_for_update(key_share=True)
    return list(session.execute(found.execution_options(populate_existing=True)).scalars())


def _wait_again(session: Session, build: ActionRow) -> None:
    """A running attempt is fenced by this: its worker finds out at the next heartbeat and kills the child."""
    attempt, running = build.attempt, build.state == ActionState.RUNNING
    move(
        session, build.key, ActionState.WAITING, among=_STARTED, attempt=attempt, progress=0.0, message=None,
        not_before=None, avoid_worker=None, avoid_until=None,
    )  # fmt: skip
    if running:
        end_attempt(session, build.key, attempt, Outcome.CANCELLED)


def _convert_again(session: Session, key: str) -> list[Announcement]:
    convert = lock_action(session, key)
    if convert is None or convert.state not in CLOSED:
        return []
    move(
        session, key, ActionState.QUEUED, among=CLOSED, tries=0, failure=None, progress=0.0, message=None,
        queued_at=now(), not_before=None, avoid_worker=None, avoid_until=None, announced_at=now(),
    )  # fmt: skip
    return [(key, convert.queue)]
