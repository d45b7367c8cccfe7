"""The outlook of a stage, in the catalogue or not yet: which workers could run it, how long, and what it waits for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from enginefarm.contract.stage import Stage
from enginefarm.wire.explanation import Outlook
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, WorkerRow
from models.catalogue.states import IN_FLIGHT, ActionState
from models.catalogue.visibility import checkpoint_of, engine_exists
from models.fleet.gpu_use import GpuUse, describe, gpus_in_use, use_by_another
from models.fleet.roster import live_workers, quarantined_workers
from models.lifecycle.submission import NewAction
from models.queries.estimates import usual_seconds
from models.queue.names import sm_of_convert, uses_gpu
from models.queue.order import MOST_OVERTAKING, is_due

_FIRST_TIME = datetime(1970, 1, 1, tzinfo=UTC)  # before every row


class Fleet:
    """What the actions of one answer wait for. It reads the fleet once, whatever the number of actions."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @cached_property
    def _live(self) -> list[WorkerRow]:
        return live_workers(self._session)

    @cached_property
    def _quarantined(self) -> list[WorkerRow]:
        return quarantined_workers(self._session)

    @cached_property
    def _gpus_in_use(self) -> dict[str, GpuUse]:
        return gpus_in_use(self._session)

    @cached_property
    def _time(self) -> datetime:
        return self._session.execute(select(now())).scalar_one()

    def workers_serving(self, queue: str) -> list[WorkerRow]:
        """The live workers that listen to `queue`."""
        return [worker for worker in self._live if queue in worker.queues]

    def why_waiting(self, action: ActionRow, position: int) -> str:
        """Why a queued action is not running yet. `position` is how many of its queue go first."""
        workers = self.workers_serving(action.queue)
        if not workers:
            return self._why_unserved(action.queue)
        if action.not_before is not None and action.not_before > self._time:
            return f"the next try is at {action.not_before:%Y-%m-%dT%H:%M:%SZ}, after attempt {action.attempt} failed"
        waits = self._waits_for_gpus(action.queue, workers)
        lines = [_queue_line(position, workers), *waits.values()]
        if action.overtaken:
            lines.append(f"{action.overtaken} went before it whose inputs a worker had, at most {MOST_OVERTAKING} do")
        return "; ".join(lines)

    def what_it_waits_for(self, queue: str, row: ActionRow | None) -> str | None:
        """What an action waits for; None while it runs, or would start at once.

        An action that is not in the catalogue, or closed, is treated as if it were queued now.
        """
        if row is not None and row.state == ActionState.RUNNING:
            return None
        if row is not None and row.state == ActionState.QUEUED:
            return self.why_waiting(row, queue_positions(self._session, [row.key])[row.key])
        workers = self.workers_serving(queue)
        if not workers:
            return self._why_unserved(queue)
        # In flight, but neither queued nor running: it waits for its checkpoint.
        if row is not None and row.state in IN_FLIGHT:
            convert = self._session.get_one(ActionRow, row.depends_on)
            return why_checkpoints_wait(self._session, [convert]).get(convert.key, "its checkpoint")
        ahead = self._session.execute(select(func.count()).where(ActionRow.queue == queue, is_due())).scalar_one()
        running = select(ActionRow.worker_id).where(ActionRow.state == ActionState.RUNNING)
        worker_ids = [worker.id for worker in workers]
        busy = set(self._session.execute(running.where(ActionRow.worker_id.in_(worker_ids))).scalars())
        waits = self._waits_for_gpus(queue, workers)
        if ahead == 0 and len(busy | waits.keys()) < len(workers):
            return None
        return "; ".join([_queue_line(ahead, workers), *waits.values()])

    def _waits_for_gpus(self, queue: str, workers: Sequence[WorkerRow]) -> dict[str, str]:
        """By worker's id, why it cannot run an action of this queue now: another worker uses one of its GPUs."""
        waits: dict[str, str] = {}
        if not uses_gpu(queue):
            return waits
        for worker in workers:
            use = use_by_another(self._gpus_in_use, worker.host.get("gpu_uuids", ()), worker.id)
            if use is not None:
                waits[worker.id] = f"{worker.name} waits: {describe(use)}"
        return waits

    def _why_unserved(self, queue: str) -> str:
        quarantined = [worker for worker in self._quarantined if queue in worker.queues]
        if not quarantined:
            return no_worker_serves(queue)
        # A release of one of them may be all that the queue needs.
        names = ", ".join(f"{worker.name} ({worker.quarantine_reason})" for worker in quarantined)
        return f"{no_worker_serves(queue)}; quarantined: {names}"


def outlook(session: Session, fleet: Fleet, action: NewAction, *, checkpoint: str | None = None) -> Outlook:
    """The outlook of an action. `checkpoint` is the key of the convert action that a build starts from."""
    row = session.get(ActionRow, action.key)
    if action.stage is Stage.CONVERT:
        has_output = checkpoint_of(session, action.key) is not None
    else:
        has_output = engine_exists(session, action.key)
    waiting_for = None
    seconds: float | None = 0.0  # an output that exists takes no time
    if not has_output:
        waiting_for = fleet.what_it_waits_for(action.queue, row)
        seconds = usual_seconds(session, action.queue, checkpoint=checkpoint)
    return Outlook(
        stage=action.stage,
        key=action.key,
        queue=action.queue,
        done=has_output,
        workers=[worker.name for worker in fleet.workers_serving(action.queue)],
        waiting_for=waiting_for,
        seconds=seconds,
    )


def queue_positions(session: Session, keys: Collection[str]) -> dict[str, int]:
    """How many actions of the same queue are older and due, by key of a queued action.

    They go first, unless a worker has the inputs of a younger one: see models.queue.order.
    """
    if not keys:
        return {}
    # Counted between each action and the one before it among these: no queued action is counted twice.
    previous = func.lag(ActionRow.queued_at).over(partition_by=ActionRow.queue, order_by=ActionRow.queued_at)
    requested = (
        select(ActionRow.key, ActionRow.queue, ActionRow.queued_at)
        .add_columns(func.coalesce(previous, _FIRST_TIME).label("previous"))
        .where(ActionRow.key.in_(keys))
        .subquery()
    )
    ahead = aliased(ActionRow)
    between = (
        select(func.count())
        .where(ahead.queue == requested.c.queue, is_due(ahead))
        .where(ahead.queued_at >= requested.c.previous, ahead.queued_at < requested.c.queued_at)
        .scalar_subquery()
    )
    query = select(requested.c.key, requested.c.queue, between).order_by(requested.c.queued_at)
    positions: dict[str, int] = {}
    in_front: dict[str, int] = {}  # by queue
    for key, queue, count in session.execute(query):
        in_front[queue] = in_front.get(queue, 0) + count
        positions[key] = in_front[queue]
    return positions


def why_checkpoints_wait(session: Session, converts: Iterable[ActionRow]) -> dict[str, str]:
    """Which worker makes the checkpoint, by key of the convert action; without those that no worker makes now."""
    makers = {convert.key: convert.worker_id for convert in converts if convert.worker_id is not None}
    if not makers:
        return {}
    query = select(WorkerRow.id, WorkerRow.name).where(WorkerRow.id.in_(set(makers.values())))
    names = {worker_id: name for worker_id, name in session.execute(query)}  # noqa: C416  # dict() sees no pairs
    return {key: f"its checkpoint is being converted by {names[worker_id]}" for key, worker_id in makers.items()}


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
