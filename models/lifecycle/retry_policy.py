"""Decide when and where a failed action is tried again. `fail_attempt` in leases.py decides whether it is.

Whoever makes a Failure sets `retryable`: True for a fault that may pass, such as a store that does not answer or a
broken device, never for a caller's mistake. The next try comes after a growing pause, on another worker if one serves
the queue. A kill for memory is tried once more, on workers with more memory. The action of a lost worker is queued
without a pause.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import OUT_OF_MEMORY, Failure, Fault
from models.catalogue.rows import AttemptRow, WorkerRow
from models.catalogue.states import Outcome
from models.fleet.roster import workers_serving
from models.queue.names import larger_memory_queue

# Pauses of 5, 15, 45, … seconds give a store or a broker that is away time to return. With three tries, the default of
# ENGINEFARM_MAX_TRIES, only the first two occur; the longest bounds farms that allow many tries.
_FIRST_PAUSE_SECONDS = 5.0
_PAUSE_FACTOR = 3.0
_LONGEST_PAUSE_SECONDS = 600.0


def backoff(tries: int) -> float:
    """Seconds to wait after the failed try number `tries`, which counts from 1."""
    # Ten tries reach the longest pause; a float overflows after some hundreds.
    pauses_before = min(tries - 1, 10)
    return min(_FIRST_PAUSE_SECONDS * _PAUSE_FACTOR**pauses_before, _LONGEST_PAUSE_SECONDS)


def lacked_memory(failure: Failure) -> bool:
    """True if the worker's machine had too little memory for the action."""
    return failure.cause == OUT_OF_MEMORY and failure.fault is Fault.WORKER


def larger_queue(session: Session, queue: str, worker_id: str) -> str | None:
    """The queue of workers with more memory than this one.

    None if no live worker consumes it, or if `queue` is such a queue already: a kill for memory moves an action once.
    """
    worker = session.get(WorkerRow, worker_id)
    if worker is None:
        return None
    # By the memory of the machine that killed it, because workers of one queue may differ in memory.
    larger = larger_memory_queue(queue, worker.host["memory_gib"])
    if larger is None or not workers_serving(session, larger):
        return None
    return larger


def others_serve(live_workers: Iterable[WorkerRow], queue: str, worker_id: str) -> bool:
    """True if another live worker consumes the queue."""
    return any(worker.id != worker_id and queue in worker.queues for worker in live_workers)


def with_history(session: Session, key: str, failure: Failure, *, tries: int) -> Failure:
    """The last failure; its detail also names the causes of the earlier tries since the action was opened."""
    if tries <= 1:
        return failure
    # By the number of tries: older attempts are of a submit that ended before this one opened the action again.
    earlier = session.execute(
        select(AttemptRow.failure, WorkerRow.name)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key == key, AttemptRow.outcome.in_([Outcome.FAILED, Outcome.LOST]))
        .order_by(AttemptRow.number.desc())
        .limit(tries - 1)
    ).all()
    # In the order of time: the cause that repeats, and the workers it followed, show whose fault it is.
    causes = [f"{row.failure['cause']} on {row.name}" for row in reversed(earlier) if row.failure]
    history = "no cause recorded"
    if causes:
        history = ", ".join(causes)
    # On the first line: those below are lines of the log.
    first_line, *log_lines = failure.detail.split("\n")
    detail = "\n".join([f"{first_line} (try {tries}; before: {history})", *log_lines])
    return failure.model_copy(update={"detail": detail})
