"""Estimate how long an action will take: by its own progress, else by recent attempts of the same queue."""

from __future__ import annotations

from statistics import median

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow
from models.catalogue.states import ActionState, Outcome

_SAMPLES = 20  # recent attempts: enough for a stable median, few enough to follow a new machine or release
_TRUSTED_PROGRESS = 0.1  # below it, a stage is still loading and its progress says little about its end


def eta_seconds(session: Session, action: ActionRow, current: ActionRow) -> float | None:
    """Seconds until the engine of `action` exists, while `current` is the action that its build waits for.

    None while `current` is queued, or if nothing comparable ran before.
    """
    if current.state != ActionState.RUNNING:
        return None
    attempt = session.get(AttemptRow, (current.key, current.attempt))
    if attempt is None:
        return None
    elapsed = (session.execute(select(now())).scalar_one() - attempt.started_at).total_seconds()
    if current.progress >= _TRUSTED_PROGRESS:
        remaining = max(0.0, elapsed * (1 - current.progress) / current.progress)
    else:
        usual = usual_seconds(session, current.queue, checkpoint=current.depends_on)
        if usual is None:
            return None
        remaining = max(0.0, usual - elapsed)
    if current.key == action.key:
        return remaining
    # The conversion runs; the build follows it.
    build = usual_seconds(session, action.queue, checkpoint=action.depends_on)
    return None if build is None else remaining + build


def usual_seconds(session: Session, queue: str, *, checkpoint: str | None = None) -> float | None:
    """The median time of recent attempts of the queue; None without any.

    If some started from the same checkpoint (the key of a convert action), only these count: they are of one model.
    """
    seconds: list[float] = []
    if checkpoint is not None:
        seconds = _attempt_seconds(session, queue, ActionRow.depends_on == checkpoint)
    if not seconds:
        seconds = _attempt_seconds(session, queue)
    return median(seconds) if seconds else None


def _attempt_seconds(session: Session, queue: str, *conditions: ColumnElement[bool]) -> list[float]:
    rows = session.execute(
        select(AttemptRow.started_at, AttemptRow.ended_at)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .where(ActionRow.queue == queue, AttemptRow.outcome == Outcome.SUCCEEDED, *conditions)
        .order_by(AttemptRow.ended_at.desc())
        .limit(_SAMPLES)
    )
    return [(row.ended_at - row.started_at).total_seconds() for row in rows]
