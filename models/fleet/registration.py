"""Workers report to the catalogue: which platform they have, what they can run, and that they are present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from enginefarm.contract.host import Fingerprint
from enginefarm.wire.bodies import Capability
from models.catalogue.clock import now
from models.catalogue.rows import REVISION, WorkerRow
from models.catalogue.states import WorkerState
from models.catalogue.upsert import insert_new
from models.fleet.worker_states import IS_PRESENT, store_reporting_state


def register(
    session: Session,
    worker_id: str,
    name: str,
    fingerprint: Fingerprint,
    capabilities: Sequence[Capability],
    queues: Sequence[str],
) -> str:
    """Record that this worker is present; returns its state.

    Workers call this every few seconds, so it also brings back a row that a restored backup lost. A drain or a
    quarantine stays; a quarantine is by name, so it also stays when the worker starts again with a new id.
    """
    report = {
        "platform": fingerprint.platform.model_dump(),
        "host": fingerprint.host.model_dump(),
        "capabilities": [capability.model_dump(mode="json") for capability in capabilities],
        "queues": list(queues),
        "last_seen_at": now(),
        "catalogue_revision": REVISION,
    }
    # A worker gets a new id at each start. Its quarantine is found by name: in the row of the last quarantined worker
    # of that name, whose times a release clears.
    quarantined = select(WorkerRow).where(WorkerRow.name == name, WorkerRow.quarantined_at.is_not(None))
    predecessor = session.execute(quarantined.order_by(WorkerRow.quarantined_at.desc()).limit(1)).scalar_one_or_none()
    quarantine: dict[str, Any] = {}
    if predecessor is not None:
        quarantine["quarantined_at"] = predecessor.quarantined_at
        quarantine["quarantine_reason"] = predecessor.quarantine_reason
    identity = {"id": worker_id, "name": name, "state": str(WorkerState.LIVE)}
    # The quarantine is written only with a new row: a release since the query must not be undone by an update.
    if not insert_new(session, WorkerRow, identity | quarantine | report):
        session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(**report))
    # A statement of its own, after the update: an operator may have drained the worker since the row was read.
    return store_reporting_state(session, worker_id)


def deregister(session: Session, worker_id: str) -> None:
    """Mark a worker that stops as gone. Its row stays: attempts refer to it."""
    session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(state=str(WorkerState.GONE)))


def mark_silent_workers_gone(session: Session, *, after_seconds: float) -> int:
    """Mark every worker as gone that did not report for `after_seconds`; returns how many."""
    silent = (IS_PRESENT, WorkerRow.last_seen_at < now(-after_seconds))
    result = session.execute(update(WorkerRow).where(*silent).values(state=str(WorkerState.GONE)))
    return int(result.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
