"""Estimate how far a build is and how long it will take, by its progress or by recent attempts of the same queue."""

from __future__ import annotations

from statistics import median

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from enginefarm.contract.stage import Stage
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow
from models.catalogue.states import ActionState, Outcome
from models.queue.names import queue_without_sm

_SAMPLES = 20  # only recent attempts, so that an estimate follows a change of machines or of the release
_TRUSTED_PROGRESS = 0.1  # below it, the progress of a stage says too little about the time that remains
_CONVERT_SHARE = 0.2  # of a build's progress: a conversion ends at the progress at which its build begins


def build_progress(current: ActionRow | None) -> float:
    """The progress of both stages together, 0 to 1. `current` is the action that the build waits for; None: 0."""
    if current is None:
        return 0.0
    if current.stage == Stage.CONVERT:
        return round(_CONVERT_SHARE * current.progress, 4)
    return round(_CONVERT_SHARE + (1 - _CONVERT_SHARE) * current.progress, 4)


def eta_seconds(session: Session, action: ActionRow, current: ActionRow) -> float | None:
    """Seconds until the engine of `action` exists, while `current` is the action that its build waits for.

    None while `current` is queued, or if nothing comparable ran before.
    """
    if current.state != ActionState.RUNNING:
        return None
    attempt = session.get(AttemptRow, (current.key, current.attempt))
    if attempt is None:
        return None
    # The database's clock wrote `started_at`, and the clocks of APIs differ from it.
    elapsed = (session.execute(select(now())).scalar_one() - attempt.started_at).total_seconds()
    if current.progress >= _TRUSTED_PROGRESS:
        remaining = max(0.0, elapsed * (1 - current.progress) / current.progress)
    else:
        usual = usual_seconds(session, current.queue, checkpoint=current.depends_on)
        if usual is None:
            return None
        # An attempt may take longer than usual; then it ends at any moment.
        remaining = max(0.0, usual - elapsed)
    if current.key == action.key:
        return remaining
    # The conversion runs; the build follows it.
    build = usual_seconds(session, action.queue, checkpoint=action.depends_on)
    if build is None:
        return None
    return remaining + build


def usual_seconds(session: Session, queue: str, *, checkpoint: str | None = None) -> float | None:
    """The median time of recent attempts of the queue; None without any.

    If some started from the same checkpoint (the key of a convert action), only these count: they are of one model.
    """
    seconds: list[float] = []
    if checkpoint is not None:
        seconds = _attempt_seconds(session, queue, ActionRow.depends_on == checkpoint)
    if not seconds:
        seconds = _attempt_seconds(session, queue)
    general_queue = queue_without_sm(queue)
    if not seconds and general_queue is not None:
        # No conversion ran on this SM yet: those of the same release on any machine take about as long.
        seconds = _attempt_seconds(session, general_queue)
    if not seconds:
        return None
    # Not the mean: one unusually slow attempt would raise every estimate.
    return median(seconds)


def _attempt_seconds(session: Session, queue: str, *conditions: ColumnElement[bool]) -> list[float]:
    # Attempts of one queue are comparable: it stands for a stage of one release on one kind of machine.
    rows = session.execute(
        select(AttemptRow.started_at, AttemptRow.ended_at)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .where(ActionRow.queue == queue, AttemptRow.outcome == Outcome.SUCCEEDED, *conditions)
        .order_by(AttemptRow.ended_at.desc())
        .limit(_SAMPLES)
    )
    return [(row.ended_at - row.started_at).total_seconds() for row in rows]
