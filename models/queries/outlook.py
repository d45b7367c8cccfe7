"""The outlook of a stage, in the catalogue or not yet: which workers could run it, how long, and what it waits for."""

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
from models.fleet.gpu_use import describe, gpus_in_use, use_by_another
from models.fleet.roster import quarantined_workers_serving, workers_serving
from models.lifecycle.submission import NewAction
from models.queries.estimates import usual_seconds
from models.queue.names import sm_of_convert, uses_gpu


def outlook(session: Session, action: NewAction, *, checkpoint: str | None = None) -> Outlook:
    """The outlook of an action. `checkpoint` is the key of the convert action that a build starts from."""
    row = session.get(ActionRow, action.key)
    if action.stage is Stage.CONVERT:
        has_output = checkpoint_of(session, action.key) is not None
    else:
        has_output = engine_exists(session, action.key)
    waiting_for = None
    seconds: float | None = 0.0  # an output that exists takes no time
    if not has_output:
        waiting_for = what_it_waits_for(session, action.queue, row)
        seconds = usual_seconds(session, action.queue, checkpoint=checkpoint)
    return Outlook(
        stage=action.stage,
        key=action.key,
        queue=action.queue,
        done=has_output,
        workers=[worker.name for worker in workers_serving(session, action.queue)],
        waiting_for=waiting_for,
        seconds=seconds,
    )


def why_waiting(session: Session, action: ActionRow) -> str:
    """Why a queued action is not running yet."""
    workers = workers_serving(session, action.queue)
    if not workers:
        return _why_unserved(session, action.queue)
    if action.not_before is not None and action.not_before > session.execute(select(now())).scalar_one():
        return f"the next try is at {action.not_before:%Y-%m-%dT%H:%M:%SZ}, after attempt {action.attempt} failed"
    waits = _waits_for_gpus(session, action.queue, workers)
    return "; ".join([_queue_line(queue_position(session, action), workers), *waits.values()])


def queue_position(session: Session, action: ActionRow) -> int:
    """How many actions of the same queue go first."""
    ahead = select(func.count()).where(
        ActionRow.queue == action.queue,
        ActionRow.state == ActionState.QUEUED,
        ActionRow.queued_at < action.queued_at,
    )
    return session.execute(ahead).scalar_one()


def what_it_waits_for(session: Session, queue: str, row: ActionRow | None) -> str | None:
    """What an action waits for; None while it runs, or would start at once.

    An action that is not in the catalogue, or closed, is treated as if it were queued now.
    """
    if row is not None and row.state == ActionState.RUNNING:
        return None
    if row is not None and row.state == ActionState.QUEUED:
        return why_waiting(session, row)
    workers = workers_serving(session, queue)
    if not workers:
        return _why_unserved(session, queue)
    # In flight, but neither queued nor running: it waits for its checkpoint.
    if row is not None and row.state in IN_FLIGHT:
        return why_checkpoint_waits(session, row) or "its checkpoint"
    ahead = session.execute(
        select(func.count()).where(ActionRow.queue == queue, ActionRow.state == ActionState.QUEUED)
    ).scalar_one()
    worker_ids = [worker.id for worker in workers]
    # Only a running action has a worker's id, so these are the workers that run something.
    busy = set(session.execute(select(ActionRow.worker_id).where(ActionRow.worker_id.in_(worker_ids))).scalars())
    waits = _waits_for_gpus(session, queue, workers)
    if ahead == 0 and len(busy | waits.keys()) < len(workers):
        return None
    return "; ".join([_queue_line(ahead, workers), *waits.values()])


def _waits_for_gpus(session: Session, queue: str, workers: Sequence[WorkerRow]) -> dict[str, str]:
    """By worker's id, why it cannot run an action of this queue now: another worker uses one of its GPUs."""
    waits: dict[str, str] = {}
    if not uses_gpu(queue):
        return waits
    in_use = gpus_in_use(session)
    for worker in workers:
        use = use_by_another(in_use, worker.host.get("gpu_uuids", ()), worker.id)
        if use is not None:
            waits[worker.id] = f"{worker.name} waits: {describe(use)}"
    return waits


def why_checkpoint_waits(session: Session, waiting: ActionRow) -> str | None:
    """Which worker makes the checkpoint that an action waits for; None while none does."""
    if waiting.depends_on is None:
        return None
    convert = session.get_one(ActionRow, waiting.depends_on)
    if convert.worker_id is None:
        return None
    worker = session.get_one(WorkerRow, convert.worker_id)
    return f"its checkpoint is being converted by {worker.name}"


def _why_unserved(session: Session, queue: str) -> str:
    quarantined = quarantined_workers_serving(session, queue)
    if not quarantined:
        return no_worker_serves(queue)
    # A release of one of them may be all that the queue needs.
    names = ", ".join(f"{worker.name} ({worker.quarantine_reason})" for worker in quarantined)
    return f"{no_worker_serves(queue)}; quarantined: {names}"


def no_worker_serves(queue: str) -> str:
    """The text for a queue that no live worker consumes."""
    sm = sm_of_convert(queue)
    if sm is not None:
        # A worker of an earlier release has such a GPU, too, but does not know the queue.
        return f"no live worker serves {queue}: start or upgrade one with a GPU of SM {sm}, or cancel the build"
    return f"no live worker serves {queue}: start one, or cancel the build"


def _queue_line(ahead: int, workers: Sequence[WorkerRow]) -> str:
    position = "next in line"
    if ahead > 0:
        position = f"{ahead} ahead of it"
    if len(workers) == 1:
        return f"{position} for 1 worker"
    return f"{position} for {len(workers)} workers"
