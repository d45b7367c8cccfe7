"""What a stage can expect, in the catalogue or not yet: who could take it, how long, what it waits for."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from enginefarm.contract.stage import Stage
from enginefarm.wire.explanation import Outlook
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, WorkerRow
from models.catalogue.states import IN_FLIGHT, ActionState
from models.catalogue.visibility import checkpoint_of, engine_exists
from models.fleet.roster import quarantined_workers_serving, workers_serving
from models.lifecycle.submission import NewAction
from models.queries.estimates import usual_seconds


def outlook(session: Session, action: NewAction, *, checkpoint: str | None = None) -> Outlook:
    """`checkpoint` is the key of the convert action that a build starts from."""
    row = session.get(ActionRow, action.key)
    converting = action.stage is Stage.CONVERT
    done = checkpoint_of(session, action.key) is not None if converting else engine_exists(session, action.key)
    return Outlook(
        stage=action.stage,
        key=action.key,
        queue=action.queue,
        done=done,
        workers=[worker.name for worker in workers_serving(session, action.queue)],
        waiting_for=None if done else _waits(session, action.queue, row),
        seconds=0.0 if done else usual_seconds(session, action.queue, checkpoint=checkpoint),
    )


def why_waiting(session: Session, action: ActionRow) -> str:
    """Why a queued action is not running yet."""
    serving = workers_serving(session, action.queue)
    if not serving:
        return _unserved(session, action.queue)
    if action.not_before is not None and action.not_before > session.execute(select(now())).scalar_one():
        return f"the next try is at {action.not_before:%Y-%m-%dT%H:%M:%SZ}, after attempt {action.attempt} failed"
    return _line(queue_position(session, action), serving)


def queue_position(session: Session, action: ActionRow) -> int:
    """How many actions of this queue go first."""
    ahead = select(func.count()).where(
        ActionRow.queue == action.queue,
        ActionRow.state == ActionState.QUEUED,
        ActionRow.queued_at < action.queued_at,
    )
    return session.execute(ahead).scalar_one()


def _waits(session: Session, queue: str, row: ActionRow | None) -> str | None:
    """Also of an action that is not in the catalogue, or would be opened again: as if it were queued now."""
    if row is not None and row.state == ActionState.RUNNING:
        return None
    if row is not None and row.state == ActionState.QUEUED:
        return why_waiting(session, row)
    serving = workers_serving(session, queue)
    if not serving:
        return _unserved(session, queue)
    if row is not None and row.state in IN_FLIGHT:
        return why_checkpoint_waits(session, row) or "its checkpoint"
    ahead = session.execute(
        select(func.count()).where(ActionRow.queue == queue, ActionRow.state == ActionState.QUEUED)
    ).scalar_one()
    return _line(ahead, serving) if ahead or _all_busy(session, serving) else None


def _all_busy(session: Session, workers: Sequence[WorkerRow]) -> bool:
    running = select(func.count()).where(ActionRow.worker_id.in_([worker.id for worker in workers]))
    return session.execute(running).scalar_one() >= len(workers)


def why_checkpoint_waits(session: Session, waiting: ActionRow) -> str | None:
    """Who makes the checkpoint that an action waits for; None while nobody does."""
    convert = session.get(ActionRow, waiting.depends_on) if waiting.depends_on else None
    worker = session.get(WorkerRow, convert.worker_id) if convert is not None and convert.worker_id else None
    return f"its checkpoint is being converted by {worker.name}" if worker is not None else None


def _unserved(session: Session, queue: str) -> str:
    out = quarantined_workers_serving(session, queue)
    names = ", ".join(f"{worker.name} ({worker.quarantine_reason})" for worker in out)
    return f"{no_worker_serves(queue)}; quarantined: {names}" if out else no_worker_serves(queue)


def no_worker_serves(queue: str) -> str:
    return f"no live worker serves {queue}: start one, or cancel the build"


def _line(ahead: int, serving: Sequence[WorkerRow]) -> str:
    who = f"{len(serving)} worker{'s' if len(serving) > 1 else ''}"
    return f"{ahead} ahead of it for {who}" if ahead else f"next in line for {who}"
