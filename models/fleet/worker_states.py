"""What the stored state of a worker means. Readers ask here and compare no states themselves.

A worker's program that is older than catalogue revision 0007 knows no state `quarantined`: it stores `draining` with
`quarantined_at`, and refuses new work only while its row is `draining`. Its row has no `catalogue_revision`. Both
spellings of a quarantine mean the same here.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, and_, case, exists, or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState

IS_LIVE = WorkerRow.state == WorkerState.LIVE
IS_PRESENT = WorkerRow.state != WorkerState.GONE
IS_QUARANTINED = or_(
    WorkerRow.state == WorkerState.QUARANTINED,
    and_(WorkerRow.state == WorkerState.DRAINING, WorkerRow.quarantined_at.is_not(None)),
)
_REFUSES_NEW_WORK = WorkerRow.state.in_([WorkerState.DRAINING, WorkerState.QUARANTINED])

# The times outlive a worker's silence, so they decide the state of a worker that is present.
_PRESENT_STATE = case(
    (
        and_(WorkerRow.quarantined_at.is_not(None), WorkerRow.catalogue_revision.is_not(None)),
        str(WorkerState.QUARANTINED),
    ),
    (or_(WorkerRow.quarantined_at.is_not(None), WorkerRow.draining_at.is_not(None)), str(WorkerState.DRAINING)),
    else_=str(WorkerState.LIVE),
)


def refusal_of(worker_id: str) -> ColumnElement[bool]:
    """For a WHERE clause: the worker takes no new work, because it is drained or quarantined."""
    return exists().where(WorkerRow.id == worker_id, _REFUSES_NEW_WORK)


def refuses_new_work(session: Session, worker_id: str) -> bool:
    """True while the worker is drained or quarantined; it still finishes what it runs."""
    return bool(session.execute(select(refusal_of(worker_id))).scalar_one())


def store_present_state(session: Session, worker_ids: Collection[str]) -> None:
    """Set the state of these workers, which are present, from their times."""
    session.execute(update(WorkerRow).where(WorkerRow.id.in_(worker_ids)).values(state=_PRESENT_STATE))


def state_shown(row: WorkerRow) -> str:
    """The state as GET /v1/workers names it."""
    if row.state == WorkerState.DRAINING and row.quarantined_at is not None:
        return str(WorkerState.QUARANTINED)
    return row.state
