"""Drain, quarantine and release workers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, case, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound
from enginefarm.wire.bodies import OUT_OF_MEMORY, Fault
from models.catalogue.clock import now
from models.catalogue.rows import AttemptRow, WorkerRow
from models.catalogue.states import Outcome, WorkerState
from models.fleet.worker_states import IS_PRESENT, IS_QUARANTINED, QUARANTINED_STATE

# Only the newest. With ENGINEFARM_QUARANTINE_AFTER above this number, no worker is ever quarantined for its failures.
_ATTEMPTS_EXAMINED = 50


def drain(session: Session, name: str) -> list[str]:
    """Let every present worker of this name (or id) finish what it runs and take nothing new; returns their ids.

    Raises:
        NotFound: no worker of this name is present.
    """
    # A quarantine is stronger than a drain and keeps its state; a worker that is gone has nothing to finish.
    state = case((IS_QUARANTINED, WorkerRow.state), else_=str(WorkerState.DRAINING))
    return _decide(session, name, IS_PRESENT, draining_at=now(), state=state)


def release(session: Session, name: str) -> list[str]:
    """Let the workers of this name (or id) take work again, whether drained or quarantined; returns their ids.

    Raises:
        NotFound: there never was a worker of this name.
    """
    # released_at: failures of before do not count any more, or the next one would quarantine the worker again.
    cleared = {"draining_at": None, "quarantined_at": None, "quarantine_reason": None, "released_at": now()}
    return _decide(session, name, state=case((IS_PRESENT, str(WorkerState.LIVE)), else_=WorkerRow.state), **cleared)


def quarantine(session: Session, name: str, reason: str) -> list[str]:
    """Let the workers of this name (or id) take nothing until they are released, also after a restart.

    Returns their ids.

    Raises:
        NotFound: there never was a worker of this name.
    """
    # A worker that is gone stays so; its times decide its state when it reports again.
    state = case((IS_PRESENT, QUARANTINED_STATE), else_=WorkerRow.state)
    return _decide(session, name, state=state, quarantined_at=now(), quarantine_reason=reason)


def quarantine_if_sick(session: Session, worker_id: str, *, after: int) -> str | None:
    """Quarantine a worker whose last attempts, of `after` different actions, all failed by its own fault.

    Returns the reason; None if it stays as it is. A kill for memory says more about the action than about the worker,
    and a caller's mistake or a store that is away says nothing about it.
    """
    worker = session.get(WorkerRow, worker_id)
    if worker is None or worker.quarantined_at is not None:
        return None
    query = select(AttemptRow).where(
        AttemptRow.worker_id == worker.id, AttemptRow.outcome.in_([Outcome.SUCCEEDED, Outcome.FAILED])
    )
    if worker.released_at is not None:
        # An operator looked at the earlier failures and released the worker.
        query = query.where(AttemptRow.ended_at > worker.released_at)
    newest_first = query.order_by(AttemptRow.ended_at.desc()).limit(_ATTEMPTS_EXAMINED)
    causes: dict[str, str] = {}  # by action: one action that fails on every worker must not quarantine them all
    for attempt in session.execute(newest_first).scalars():
        if attempt.outcome == Outcome.SUCCEEDED:
            break  # the worker was well then, so older failures say nothing about it
        failure = attempt.failure or {}
        if failure.get("fault") == Fault.WORKER and failure.get("cause") != OUT_OF_MEMORY:
            causes.setdefault(attempt.action_key, failure["cause"])
    if len(causes) < after:
        return None
    reason = f"{len(causes)} different actions in a row failed on it ({', '.join(sorted(set(causes.values())))})"
    quarantine(session, worker_id, reason)
    return reason


def worker_ids(session: Session, name: str) -> list[str]:
    """The ids of every worker that ever had this name (or id).

    Raises:
        NotFound: there never was one.
    """
    ids = list(session.execute(select(WorkerRow.id).where(_named(name))).scalars())
    _require_some(name, ids)
    return ids


def _decide(session: Session, name: str, *conditions: ColumnElement[bool], **values: Any) -> list[str]:
    # Several rows may have the name: a worker gets a new id at each start.
    query = update(WorkerRow).where(_named(name), *conditions).values(**values)
    ids = list(session.execute(query.returning(WorkerRow.id)).scalars())
    _require_some(name, ids)
    return ids


def _named(name: str) -> ColumnElement[bool]:
    return or_(WorkerRow.id == name, WorkerRow.name == name)


def _require_some(name: str, ids: list[str]) -> None:
    if not ids:
        raise NotFound(f"there is no worker {name!r}; GET /v1/workers lists them")
