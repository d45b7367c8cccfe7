"""Soft leases of queued actions: a busy worker says that it fetches the inputs of the one that it would take next.

A hint with an end, for the other workers that fetch ahead: they choose another action. It changes no state. Any idle
worker may claim the action, and a worker that dies leaves nothing to undo. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow
from models.catalogue.states import ActionState
from models.catalogue.visibility import checkpoint_of
from models.queue.order import next_turn


@dataclass(frozen=True)
class NextAction:
    """What a worker would fetch for the action that it takes next. `checkpoint`: manifest digest of a build's start."""

    key: str
    inputs: str | None
    stored_work: dict[str, Any]
    checkpoint: str | None


def reserve_next(
    session: Session, queue: str, worker_id: str, *, held: Sequence[str], seconds: float
) -> NextAction | None:
    """Reserve softly the action of the queue that this worker would take next, for `seconds`.

    Returns None if nothing is due that no other worker fetches already.

    Args:
        held: as for `next_turn`.
    """
    prefetched = and_(
        # Of a row that nobody fetches ahead, the comparisons are NULL and not false.
        ActionRow.prefetched_by.is_not(None),
        ActionRow.prefetched_by != worker_id,
        ActionRow.prefetched_until > now(),
    )
    choice = next_turn(session, queue, worker_id, held, unless=prefetched)
    if choice is None or not renew_reservation(session, choice.key, worker_id, seconds=seconds, first=True):
        return None
    row = session.execute(select(ActionRow).where(ActionRow.key == choice.key)).scalar_one()
    manifest = None
    if row.depends_on is not None:
        checkpoint = checkpoint_of(session, row.depends_on)
        if checkpoint is not None:
            manifest = checkpoint.manifest
    return NextAction(row.key, row.inputs, row.work, manifest)


def renew_reservation(session: Session, key: str, worker_id: str, *, seconds: float, first: bool = False) -> bool:
    """Extend the soft lease. False if the action is not queued any more, or another worker has reserved it since."""
    reserved = update(ActionRow).where(ActionRow.key == key, ActionRow.state == ActionState.QUEUED)
    if not first:
        reserved = reserved.where(ActionRow.prefetched_by == worker_id)
    result = session.execute(
        reserved.values(prefetched_by=worker_id, prefetched_until=now(seconds)),
        execution_options={"synchronize_session": False},
    )
    return int(result.rowcount) == 1  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
