"""Which GPUs are in use by whom, and which workers therefore wait. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, GpuLockRow, WorkerRow
from models.catalogue.states import ActionState

# The attempt has ended and its programs have had the time to end: whoever needs the GPU may take the lock over.
IS_OVER = and_(
    GpuLockRow.expires_at < now(),
    ~exists().where(
        ActionRow.key == GpuLockRow.action_key,
        ActionRow.attempt == GpuLockRow.attempt,
        ActionRow.state == ActionState.RUNNING,
    ),
)


class GpuUse(NamedTuple):
    """A GPU, by its UUID, and the worker and action that it is locked for."""

    gpu: str
    worker: str
    worker_id: str | None = None
    action: str | None = None


def describe(use: GpuUse) -> str:
    """For people: which GPU is in use by whom."""
    text = f"GPU {use.gpu} is in use by {use.worker}"
    if use.action is not None:
        text += f" ({use.action[:12]})"
    return text


def gpus_in_use(session: Session) -> dict[str, GpuUse]:
    """Every locked GPU, by UUID."""
    query = (
        select(GpuLockRow.gpu, WorkerRow.name, WorkerRow.id, GpuLockRow.action_key)
        .join(WorkerRow, WorkerRow.id == GpuLockRow.worker_id)
        .where(~IS_OVER)
    )
    return {row.gpu: GpuUse(*row) for row in session.execute(query)}


def use_by_another(in_use: dict[str, GpuUse], gpus: Iterable[str], worker_id: str) -> GpuUse | None:
    """The first of a worker's GPUs that another worker has; None if it may run a stage on all of them."""
    for gpu in gpus:
        use = in_use.get(gpu)
        if use is not None and use.worker_id != worker_id:
            return use
    return None
