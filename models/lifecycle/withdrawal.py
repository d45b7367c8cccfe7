"""Withdraw what must not be used: engines, and checkpoints with everything that was to start from them.

Nothing is deleted. A withdrawn engine is not served and does not answer a submit: the next submit builds it anew, and
publishing it again ends the withdrawal. Nothing here commits.
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
    """Withdraw a served engine. False if there is none: it does not exist, or was withdrawn before."""
    withdrawal = update(EngineRow).where(EngineRow.key == key, SERVED)
    result = session.execute(withdrawal.values(quarantined_at=now(), quarantine_reason=reason))
    return bool(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def withdraw_checkpoint(session: Session, key: str, reason: str) -> list[Announcement]:
    """Withdraw the checkpoint of a convert action. Builds that were to start from it wait until it is converted anew.

    Returns the convert action if it must be announced.
    """
    # Before the builds: the lock order. A submit that looks for the checkpoint waits here and then finds none.
    lock_action(session, key)
    withdrawal = update(CheckpointRow).where(CheckpointRow.key == key, USABLE)
    session.execute(withdrawal.values(quarantined_at=now(), quarantine_reason=reason))
    started = select(ActionRow).where(ActionRow.depends_on == key, ActionRow.state.in_(_STARTED))
    started = started.order_by(ActionRow.key).with_for_update(key_share=True)
    for build in session.execute(started.execution_options(populate_existing=True)).scalars().all():
        attempt = build.attempt
        was_running = build.state == ActionState.RUNNING
        move(
            session, build.key, ActionState.WAITING, among=_STARTED, attempt=attempt, progress=0.0, message=None,
            not_before=None, avoid_worker=None, avoid_until=None,
        )  # fmt: skip
        if was_running:  # its worker is fenced at the next heartbeat and kills its programs
            end_attempt(session, build.key, attempt, Outcome.CANCELLED)
    if not waiting_dependents(session, key):
        return []  # the next submit that needs the checkpoint opens the convert action
    convert = lock_action(session, key)
    if convert is None or convert.state not in CLOSED:
        return []
    move(
        session, key, ActionState.QUEUED, among=CLOSED, tries=0, failure=None, progress=0.0, message=None,
        queued_at=now(), not_before=None, avoid_worker=None, avoid_until=None, announced_at=now(),
    )  # fmt: skip
    return [Announcement(key, convert.queue)]
