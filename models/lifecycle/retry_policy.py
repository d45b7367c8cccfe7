"""What becomes of an action whose attempt failed: by the cause, never by hope.

The caller's fault is never tried again. What may pass (a lost worker, a store that was away, a broken device) is,
with growing pauses, and elsewhere if there is an elsewhere. A kill for memory is tried once, on workers with more.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import OUT_OF_MEMORY, Failure, Fault
from models.catalogue.rows import AttemptRow, WorkerRow
from models.catalogue.states import Outcome
from models.fleet.roster import workers_serving
from models.queue.names import larger_memory_queue


def backoff(tries: int) -> float:
    """Seconds to wait before the next try: 5, 15, 45, … up to ten minutes."""
    return float(min(5 * 3 ** (tries - 1), 600))


def killed_for_memory(failure: Failure) -> bool:
    return failure.cause == OUT_OF_MEMORY and failure.fault is Fault.WORKER


def larger_queue(session: Session, queue: str, worker_id: str) -> str | None:
    """Where live workers with more memory than this one listen; None if there are none, or if it was there already."""
    worker = session.get(WorkerRow, worker_id)
    larger = larger_memory_queue(queue, worker.host["memory_gib"]) if worker is not None else None
    return larger if larger is not None and workers_serving(session, larger) else None


def others_serve(session: Session, queue: str, worker_id: str) -> bool:
    return any(worker.id != worker_id for worker in workers_serving(session, queue))


def with_history(session: Session, key: str, failure: Failure, *, tries: int) -> Failure:
    """The last failure, and in a few words those before it since the action was opened."""
    if tries <= 1:
        return failure
    rows = session.execute(
        select(AttemptRow.failure, WorkerRow.name)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key == key, AttemptRow.outcome.in_([Outcome.FAILED, Outcome.LOST]))
        .order_by(AttemptRow.number.desc())
        .limit(tries - 1)
    ).all()
    before = ", ".join(f"{row.failure['cause']} on {row.name}" for row in reversed(rows) if row.failure)
    return failure.model_copy(update={"detail": f"{failure.detail} (try {tries}; before: {before or 'nothing said'})"})
