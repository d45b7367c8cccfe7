"""What is decided about workers: drained, quarantined, released."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Case, ColumnElement, case, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound
from enginefarm.wire.bodies import OUT_OF_MEMORY, Fault
from models.catalogue.clock import now
from models.catalogue.rows import AttemptRow, WorkerRow
from models.catalogue.states import Outcome

_LOOKED_AT = 50  # attempts of a worker, the latest


def drain(session: Session, name: str) -> list[str]:
    """Let every worker of this name (or id) finish what it runs and take nothing new; returns their ids.

    Raises:
        NotFound: no worker that is there has it.
    """
    there = (_named(name), WorkerRow.state != "gone")
    return _decide(session, name, *there, draining_at=now(), state=_if_there("draining"))


def release(session: Session, name: str) -> list[str]:
    """Let the workers of this name (or id) take work again: no longer drained, no longer quarantined.

    Raises:
        NotFound
    """
    cleared = {"draining_at": None, "quarantined_at": None, "quarantine_reason": None, "released_at": now()}
    return _decide(session, name, _named(name), state=_if_there("live"), **cleared)


def worker_ids(session: Session, name: str) -> list[str]:
    """Every worker there ever was of this name (or id).

    Raises:
        NotFound
    """
    return _found(name, session.execute(select(WorkerRow.id).where(_named(name))).scalars())


def quarantine(session: Session, name: str, reason: str) -> list[str]:
    """Let the workers of this name (or id) take nothing, also after they start again, until they are released.

    Raises:
        NotFound
    """
    decided = {"quarantined_at": now(), "quarantine_reason": reason, "state": _if_there("draining")}
    return _decide(session, name, _named(name), **decided)


def quarantine_if_sick(session: Session, worker_id: str, *, after: int) -> str | None:
    """Quarantine a worker whose last attempts, of `after` different actions, all failed by its own fault.

    Returns the reason; None if it is well. Kills for memory say more of the action than of the worker, and a caller's
    mistake or a store that is away says nothing of it.
    """
    worker = session.get(WorkerRow, worker_id)
    if worker is None or worker.quarantined_at is not None:
        return None
    causes = _failures_in_a_row(session, worker)
    if len(causes) < after:
        return None
    reason = f"{len(causes)} different actions in a row failed on it ({', '.join(sorted(set(causes.values())))})"
    quarantine(session, worker_id, reason)
    return reason


def _failures_in_a_row(session: Session, worker: WorkerRow) -> dict[str, str]:
    """Action → cause, of the attempts since the last one that did not fail by the worker's fault."""
    ended = [Outcome.SUCCEEDED, Outcome.FAILED]
    query = select(AttemptRow).where(AttemptRow.worker_id == worker.id, AttemptRow.outcome.in_(ended))
    if worker.released_at is not None:
        query = query.where(AttemptRow.ended_at > worker.released_at)
    causes: dict[str, str] = {}
    for attempt in session.execute(query.order_by(AttemptRow.ended_at.desc()).limit(_LOOKED_AT)).scalars():
        failure = attempt.failure or {}
        if attempt.outcome == Outcome.SUCCEEDED:
            break
        if failure.get("fault") == Fault.WORKER and failure.get("cause") != OUT_OF_MEMORY:
            causes.setdefault(attempt.action_key, failure["cause"])
    return causes


def _named(name: str) -> ColumnElement[bool]:
    return or_(WorkerRow.id == name, WorkerRow.name == name)


def _if_there(state: str) -> Case[str]:
    """`state`, but "gone" stays gone."""
    return case((WorkerRow.state == "gone", "gone"), else_=state)


def _decide(session: Session, name: str, *where: ColumnElement[bool], **values: Any) -> list[str]:
    done = session.execute(update(WorkerRow).where(*where).values(**values).returning(WorkerRow.id))
    return _found(name, done.scalars())


def _found(name: str, ids: Iterable[str]) -> list[str]:
    if not (found := list(ids)):
        raise NotFound(f"there is no worker {name!r}; GET /v1/workers lists them")
    return found
