"""What the sweep does to rows: release what waits for nothing, and find what nobody was told about.

Each is a conditional UPDATE, so that any number of control planes may sweep at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, CheckpointRow, WorkerRow
from models.catalogue.states import ActionState
from models.catalogue.visibility import USABLE
from models.fleet.worker_states import IS_LIVE
from models.queue.names import Announcement

_QUIET_SECONDS = 10.0  # an action is announced at most once in so long


def queue_released_builds(session: Session) -> None:
    """Queue waiting actions whose checkpoint is there. The transaction that published it did so already; this
    mends rows that came from a restored backup."""
    published = select(CheckpointRow.key).where(USABLE)
    session.execute(
        update(ActionRow)
        .where(ActionRow.state == ActionState.WAITING, ActionRow.depends_on.in_(published))
        .values(state=str(ActionState.QUEUED), queued_at=now())
    )


def count_due_by_queue(session: Session) -> Mapping[str, int]:
    """How many actions each queue should hold a message for: queued, due, and served by a live worker."""
    served: set[str] = set()
    for queues in session.execute(select(WorkerRow.queues).where(IS_LIVE)).scalars():
        served.update(queues)
    rows = session.execute(
        select(ActionRow.queue, func.count())
        .where(*_due())
        .where(ActionRow.queue.in_(served))
        .group_by(ActionRow.queue)
    )
    return {queue: count for queue, count in rows}  # noqa: C416  # dict() does not see that rows are pairs


def mark_announced(session: Session, queue: str, count: int) -> Sequence[Announcement]:
    """Up to `count` due actions of the queue, oldest first, that were not announced just now; marks them."""
    oldest = (
        select(ActionRow.key)
        .where(ActionRow.queue == queue, *_due(), *_quiet())
        .order_by(ActionRow.queued_at)
        .limit(count)
        .with_for_update(skip_locked=True, key_share=True)  # whoever has one is doing something about it
    )
    taken = session.execute(
        update(ActionRow)
        .where(ActionRow.key.in_(oldest), *_quiet())
        .values(announced_at=now())
        .returning(ActionRow.key, ActionRow.queue)
    )
    return [(row.key, row.queue) for row in taken]


def _due() -> tuple:  # type: ignore[type-arg]  # clauses
    waits_no_more = or_(ActionRow.not_before.is_(None), ActionRow.not_before <= now())
    return (ActionRow.state == ActionState.QUEUED, waits_no_more)


def _quiet() -> tuple:  # type: ignore[type-arg]  # clauses
    return (or_(ActionRow.announced_at.is_(None), ActionRow.announced_at < now(-_QUIET_SECONDS)),)
