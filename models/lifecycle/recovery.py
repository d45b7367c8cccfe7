"""The sweep's updates: queue builds whose checkpoint exists, and announce actions whose message was lost.

Each is a conditional UPDATE, so that any number of control planes may sweep at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, CheckpointRow
from models.catalogue.states import ActionState
from models.catalogue.visibility import USABLE
from models.fleet.roster import live_workers
from models.queue.names import Announcement

# An action is announced at most once in this time, so that sweeps of several control planes do not flood the queue.
_QUIET_SECONDS = 10.0


def queue_released_builds(session: Session) -> None:
    """Queue waiting actions whose checkpoint is published.

    The transaction that publishes a checkpoint does so already; this repairs rows of a restored backup.
    """
    published = select(CheckpointRow.key).where(USABLE)
    session.execute(
        update(ActionRow)
        .where(ActionRow.state == ActionState.WAITING, ActionRow.depends_on.in_(published))
        .values(state=str(ActionState.QUEUED), queued_at=now())
    )


def count_due_by_queue(session: Session) -> Mapping[str, int]:
    """Messages that each queue should hold: one for each action that is queued, due, and served by a live worker."""
    served: set[str] = set()
    for worker in live_workers(session):
        served.update(worker.queues)
    rows = session.execute(
        select(ActionRow.queue, func.count())
        .where(*_due())
        # Messages in a queue that nobody consumes would pile up until a worker starts.
        .where(ActionRow.queue.in_(served))
        .group_by(ActionRow.queue)
    )
    return {queue: count for queue, count in rows}  # noqa: C416  # dict() does not see that rows are pairs


def mark_announced(session: Session, queue: str, count: int) -> Sequence[Announcement]:
    """Mark up to `count` due actions of the queue as announced, the oldest first; returns them.

    Actions that were announced a moment ago are left out: their message may still be on its way.
    """
    oldest = (
        select(ActionRow.key)
        .where(ActionRow.queue == queue, *_due(), *_quiet())
        .order_by(ActionRow.queued_at)
        .limit(count)
        .with_for_update(skip_locked=True, key_share=True)  # a locked action is being claimed or swept already
    )
    # Quiet is asked twice: another sweep may have announced a row between the sub-query and its lock.
    marked = session.execute(
        update(ActionRow)
        .where(ActionRow.key.in_(oldest), *_quiet())
        .values(announced_at=now())
        .returning(ActionRow.key, ActionRow.queue)
    )
    return [Announcement(row.key, row.queue) for row in marked]


def _due() -> tuple[ColumnElement[bool], ...]:
    pause_over = or_(ActionRow.not_before.is_(None), ActionRow.not_before <= now())
    return (ActionRow.state == ActionState.QUEUED, pause_over)


def _quiet() -> tuple[ColumnElement[bool], ...]:
    return (or_(ActionRow.announced_at.is_(None), ActionRow.announced_at < now(-_QUIET_SECONDS)),)
