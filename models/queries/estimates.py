"""How long it will still take: from what attempts of the same queue took, else from the stage's own progress."""

from __future__ import annotations

from statistics import median

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow
from models.catalogue.states import ActionState, Outcome

_SAMPLES = 20
_TRUSTED_PROGRESS = 0.1  # below that a stage's own progress says next to nothing about the rest


def eta_seconds(session: Session, action: ActionRow, current: ActionRow) -> float | None:
    """Seconds until the engine is there; None where nothing is known, or while it is still queued."""
    if current.state != ActionState.RUNNING:
        return None
    left = _left(session, current)
    if left is None or current.key == action.key:
        return left
    build = usual_seconds(session, action.queue, checkpoint=action.depends_on)
    return None if build is None else left + build


def usual_seconds(session: Session, queue: str, *, checkpoint: str | None = None) -> float | None:
    """The median of what recent attempts of the queue took; those from the same checkpoint count alone if there are
    any, because they are of the same model."""
    if checkpoint is not None and (took := _took(session, ActionRow.depends_on == checkpoint, queue=queue)):
        return median(took)
    took = _took(session, queue=queue)
    return median(took) if took else None


def _took(session: Session, *where: ColumnElement[bool], queue: str) -> list[float]:
    rows = session.execute(
        select(AttemptRow.started_at, AttemptRow.ended_at)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .where(ActionRow.queue == queue, AttemptRow.outcome == Outcome.SUCCEEDED, *where)
        .order_by(AttemptRow.ended_at.desc())
        .limit(_SAMPLES)
    )
    return [(row.ended_at - row.started_at).total_seconds() for row in rows]


def _left(session: Session, running: ActionRow) -> float | None:
    attempt = session.get(AttemptRow, (running.key, running.attempt))
    if attempt is None:
        return None
    spent = (session.execute(select(now())).scalar_one() - attempt.started_at).total_seconds()
    if running.progress >= _TRUSTED_PROGRESS:
        return max(0.0, spent * (1 - running.progress) / running.progress)
    usual = usual_seconds(session, running.queue, checkpoint=running.depends_on)
    return None if usual is None else max(0.0, usual - spent)
