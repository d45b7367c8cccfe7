"""What the stored state of a worker means. Readers ask here and compare no states themselves.

A worker's program that is older than catalogue revision 0007 knows no state `quarantined`: it stores `draining` with
`quarantined_at`, and refuses new work only while its row is `draining`. Its row has no `catalogue_revision`. Both
spellings of a quarantine mean the same here.
"""

from __future__ import annotations

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

# What to store for a quarantined worker, so that its program refuses new work.
QUARANTINED_STATE = case(
    (WorkerRow.catalogue_revision.is_(None), str(WorkerState.DRAINING)), else_=str(WorkerState.QUARANTINED)
)
# The times outlive a worker's silence, so they decide its state when it reports again.
_REPORTING_STATE = case(
    (WorkerRow.quarantined_at.is_not(None), QUARANTINED_STATE),
    (WorkerRow.draining_at.is_not(None), str(WorkerState.DRAINING)),
    else_=str(WorkerState.LIVE),
)


def refusal_of(worker_id: str) -> ColumnElement[bool]:
    """For a WHERE clause: the worker takes no new work, because it is drained or quarantined."""
    return exists().where(WorkerRow.id == worker_id, _REFUSES_NEW_WORK)


def refuses_new_work(session: Session, worker_id: str) -> bool:
    """True while the worker is drained or quarantined; it still finishes what it runs."""
    return bool(session.execute(select(refusal_of(worker_id))).scalar_one())


def store_reporting_state(session: Session, worker_id: str) -> str:
    """Set the state of a worker that has just reported, from its times; returns the state."""
    query = update(WorkerRow).where(WorkerRow.id == worker_id).values(state=_REPORTING_STATE)
    return session.execute(query.returning(WorkerRow.state)).scalar_one()


def state_shown(row: WorkerRow) -> str:
    """The state as GET /v1/workers names it."""
    if row.state == WorkerState.DRAINING and row.quarantined_at is not None:
        return str(WorkerState.QUARANTINED)
    return row.state
