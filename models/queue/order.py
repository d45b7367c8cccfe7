"""The order of a queue: which of its actions a worker takes next. See docs/adr/0028-warm-claims.md.

The oldest due action goes first. A *warm* one, whose inputs the worker's node holds, may overtake it: at most
`MOST_OVERTAKING` times, and only within `OVERTAKEN_SECONDS` of the first time. So at least every fifth claim of a queue
takes the oldest action, and no action waits for ever. `next_turn` is the one place that decides this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, true, union_all, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow
from models.catalogue.states import ActionState

MOST_OVERTAKING = 4  # times that one action is overtaken while it is the oldest of its queue
OVERTAKEN_SECONDS = 600.0  # after it was overtaken for the first time, the next worker takes it
MOST_HELD = 32  # inputs that a worker names in a claim: bounds the statement


@dataclass(frozen=True)
class Choice:
    """The action that a worker takes next, and the oldest one of the queue if it overtakes that."""

    key: str
    overtaken: str | None = None


def is_due(action: type[ActionRow] = ActionRow) -> ColumnElement[bool]:
    """For a WHERE clause: the action is queued, and the pause after its last failure is over."""
    pause_over = or_(action.not_before.is_(None), action.not_before <= now())
    return and_(action.state == ActionState.QUEUED, pause_over)


def is_avoiding(worker_id: str) -> ColumnElement[bool]:
    """For a WHERE clause: the last attempt failed on this worker, and other workers go first for a while."""
    # Of a row without a worker to avoid, the comparisons are NULL and not false.
    return and_(ActionRow.avoid_worker.is_not(None), ActionRow.avoid_worker == worker_id, ActionRow.avoid_until > now())


def next_turn(
    session: Session, queue: str, worker_id: str, held: Sequence[str] = (), *, unless: ColumnElement[bool] | None = None
) -> Choice | None:
    """Choose the action of this queue that the worker takes next, and lock it until the transaction ends.

    None if no action of the queue is due, or if other transactions have locked all that are.

    Args:
        held: values of `ActionRow.inputs`. The worker's node has these inputs; those that it used last come first.
        unless: leaves out actions that meet this condition.
    """
    claimable = [ActionRow.queue == queue, is_due(), ~is_avoiding(worker_id)]
    if unless is not None:
        claimable.append(~unless)
    by_age = select(ActionRow.key, ActionRow.overtaken, ActionRow.overtaken_at).where(*claimable)
    # A locked action is being claimed by another worker, or changed by the API: waiting for it would make the claims of
    # a queue wait for each other.
    oldest = _locked(by_age).cte("oldest")
    if not held:
        key = session.execute(select(oldest.c.key)).scalar_one_or_none()
        return Choice(key) if key is not None else None
    warm = _locked(by_age.where(ActionRow.inputs == _inputs_of_oldest_warm(claimable, held))).cte("warm")
    may_be_overtaken = and_(
        func.coalesce(oldest.c.overtaken, 0) < MOST_OVERTAKING,
        or_(oldest.c.overtaken_at.is_(None), oldest.c.overtaken_at > now(-OVERTAKEN_SECONDS)),
    )
    both = select(oldest.c.key.label("oldest"), warm.c.key.label("warm"), may_be_overtaken.label("may_be_overtaken"))
    row = session.execute(both.select_from(oldest.outerjoin(warm, true()))).one_or_none()
    if row is None:
        return None
    if row.warm is None or row.warm == row.oldest or not row.may_be_overtaken:
        return Choice(row.oldest)
    return Choice(row.warm, overtaken=row.oldest)


def record_overtaking(session: Session, key: str) -> None:
    """Count that a younger action was claimed before this one, which `next_turn` has locked."""
    overtaken = update(ActionRow).where(ActionRow.key == key, ActionRow.state == ActionState.QUEUED)
    session.execute(
        overtaken.values(
            overtaken=func.coalesce(ActionRow.overtaken, 0) + 1,
            overtaken_at=func.coalesce(ActionRow.overtaken_at, now()),
        ),
        execution_options={"synchronize_session": False},
    )


def _inputs_of_oldest_warm(claimable: Sequence[ColumnElement[bool]], held: Sequence[str]) -> ColumnElement[str]:
    # One look into the index for each of them. A condition `inputs IN (…)` would read and sort all warm actions. As
    # rows of a UNION, because SQLAlchemy compiles a statement with VALUES at each use.
    named = union_all(*(select(literal(inputs).label("inputs")) for inputs in held[:MOST_HELD])).cte("held")
    first = (
        select(ActionRow.queued_at)
        .where(ActionRow.inputs == named.c.inputs, *claimable)
        .order_by(ActionRow.queued_at)
        .limit(1)
        .correlate(named)
        .scalar_subquery()
    )
    firsts = select(named.c.inputs, first.label("queued_at")).cte("firsts")
    return (
        select(firsts.c.inputs)
        .where(firsts.c.queued_at.is_not(None))
        .order_by(firsts.c.queued_at)
        .limit(1)
        .scalar_subquery()
    )


def _locked(by_age: Select[str, int | None, datetime | None]) -> Select[str, int | None, datetime | None]:
    oldest_first = by_age.order_by(ActionRow.queued_at).limit(1)
    return oldest_first.with_for_update(skip_locked=True, key_share=True)
