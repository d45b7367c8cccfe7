"""The sweep's updates: queue builds whose checkpoint exists, and announce actions whose message was lost.

Each is a conditional UPDATE, so that any number of control planes may sweep at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, String, column, func, or_, select, union_all, update, values
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, CheckpointRow
from models.catalogue.states import ActionState
from models.catalogue.visibility import USABLE
from models.fleet.roster import live_workers
from models.queue.names import Announcement
from models.queue.order import is_due

# An action is announced at most once in this time, so that sweeps of several control planes do not flood the queue.
_QUIET_SECONDS = 10.0
_WAITING_EXAMINED = 500  # waiting actions, twice in each sweep: bounds its time, however many wait


def queue_released_builds(session: Session) -> None:
    """Queue waiting actions whose checkpoint is published.

    The transaction that publishes a checkpoint does so already; this repairs rows of a restored backup. Of many
    waiting actions, each call examines some.
    """
    # From anywhere to the end, and from the beginning: the calls of all processes together examine all of them, and
    # each call examines all if they are few.
    begin = secrets.token_hex(32)
    is_waiting = ActionRow.state == ActionState.WAITING
    examined = []
    for part in (ActionRow.depends_on >= begin, ActionRow.depends_on < begin):
        waiting = select(ActionRow.key, ActionRow.depends_on).where(is_waiting, part)
        sample = waiting.order_by(ActionRow.depends_on, ActionRow.key).limit(_WAITING_EXAMINED).subquery()
        examined.append(
            select(sample.c.key).join(CheckpointRow, CheckpointRow.key == sample.c.depends_on).where(USABLE)
        )
    released = session.execute(union_all(*examined)).scalars().all()
    # Mostly none. An UPDATE with the query in it would lock what it joins, and be planned for the whole table.
    if released:
        session.execute(
            update(ActionRow)
            .where(ActionRow.key.in_(released), is_waiting)
            .values(state=str(ActionState.QUEUED), queued_at=now())
        )


def count_due_by_queue(session: Session, *, most: int | None = None) -> Mapping[str, int]:
    """Messages that each queue should hold: one for each action that is queued, due, and served by a live worker.

    `most`: count no further in a queue. None: count all, which takes the longer the more actions are queued.
    """
    # Messages in a queue that nobody consumes would pile up until a worker starts.
    names: set[str] = set()
    for worker in live_workers(session):
        names.update(worker.queues)
    if not names:
        return {}
    served = values(column("queue", String()), name="served").data([(name,) for name in names]).cte()
    due = select(ActionRow.key).where(ActionRow.queue == served.c.queue, is_due()).limit(most).correlate(served)
    count = select(func.count()).select_from(due.subquery()).scalar_subquery()
    rows = session.execute(select(served.c.queue, count))
    return {queue: count for queue, count in rows if count > 0}


def mark_announced(session: Session, queue: str, count: int) -> Sequence[Announcement]:
    """Mark up to `count` due actions of the queue as announced, the oldest first; returns them.

    Actions that were announced a moment ago are left out: their message may still be on its way.
    """
    oldest = (
        select(ActionRow.key)
        .where(ActionRow.queue == queue, is_due(), *_quiet())
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


def _quiet() -> tuple[ColumnElement[bool], ...]:
    return (or_(ActionRow.announced_at.is_(None), ActionRow.announced_at < now(-_QUIET_SECONDS)),)
