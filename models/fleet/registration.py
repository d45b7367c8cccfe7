"""Workers as the catalogue knows them: who is there, on what platform, able to do what."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.host import Fingerprint
from enginefarm.contract.platform import Platform
from enginefarm.wire.bodies import Capability, Worker
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, WorkerRow
from models.catalogue.upsert import insert_new


def register(
    session: Session,
    worker_id: str,
    name: str,
    fingerprint: Fingerprint,
    capabilities: Sequence[Capability],
    queues: Sequence[str],
) -> str:
    """Say that this worker is there; returns its row's state.

    Said again every few seconds, so it also repairs a row that was lost. What was decided about a worker stays; a
    quarantine also stays when it starts again under its name.
    """
    quarantine = _quarantine_of(session, name)
    values = {
        "id": worker_id,
        "name": name,
        "state": "draining" if quarantine else "live",
        "quarantined_at": quarantine.quarantined_at if quarantine else None,
        "quarantine_reason": quarantine.quarantine_reason if quarantine else None,
        "platform": fingerprint.platform.model_dump(),
        "host": fingerprint.host.model_dump(),
        "capabilities": [capability.model_dump(mode="json") for capability in capabilities],
        "queues": list(queues),
        "last_seen_at": now(),
    }
    if not insert_new(session, WorkerRow, values):
        said = {name: values[name] for name in ("platform", "host", "capabilities", "queues", "last_seen_at")}
        session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(state=_DECIDED, **said))
    return session.execute(select(WorkerRow.state).where(WorkerRow.id == worker_id)).scalar_one()


# The state of a worker that is there.
_DECIDED = case(
    (or_(WorkerRow.quarantined_at.is_not(None), WorkerRow.draining_at.is_not(None)), "draining"), else_="live"
)


def _quarantine_of(session: Session, name: str) -> WorkerRow | None:
    """The last worker of this name that was quarantined and not released."""
    where = (WorkerRow.name == name, WorkerRow.quarantined_at.is_not(None))
    found = select(WorkerRow).where(*where).order_by(WorkerRow.quarantined_at.desc()).limit(1)
    return session.execute(found).scalar_one_or_none()


def deregister(session: Session, worker_id: str) -> None:
    session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(state="gone"))


def mark_silent_workers_gone(session: Session, *, after_seconds: float) -> int:
    """Mark every worker that has been silent for so long; returns how many."""
    silent = (WorkerRow.state != "gone", WorkerRow.last_seen_at < now(-after_seconds))
    done = session.execute(update(WorkerRow).where(*silent).values(state="gone"))
    return int(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def present_workers(session: Session) -> list[WorkerRow]:
    """Live ones, and those that take nothing new."""
    rows = session.execute(select(WorkerRow).where(WorkerRow.state != "gone").order_by(WorkerRow.name))
    return list(rows.scalars())


def live_workers(session: Session) -> list[WorkerRow]:
    rows = session.execute(select(WorkerRow).where(WorkerRow.state == "live").order_by(WorkerRow.name))
    return list(rows.scalars())


def workers_serving(session: Session, queue: str) -> list[WorkerRow]:
    """The live workers that listen to `queue`."""
    return [worker for worker in live_workers(session) if queue in worker.queues]


def quarantined_workers_serving(session: Session, queue: str) -> list[WorkerRow]:
    """The workers that would serve `queue`, were they not quarantined."""
    rows = session.execute(
        select(WorkerRow)
        .where(WorkerRow.state == "draining", WorkerRow.quarantined_at.is_not(None))
        .order_by(WorkerRow.name)
    )
    return [worker for worker in rows.scalars() if queue in worker.queues]


def list_workers(session: Session, *, include_gone: bool = False) -> list[Worker]:
    where = [] if include_gone else [WorkerRow.state != "gone"]
    running = dict(
        session.execute(select(ActionRow.worker_id, ActionRow.key).where(ActionRow.worker_id.is_not(None))).all()
    )
    rows = session.execute(select(WorkerRow).where(*where).order_by(WorkerRow.name, WorkerRow.started_at)).scalars()
    return [_worker(row, running.get(row.id)) for row in rows]


def _shown(row: WorkerRow) -> str:
    return "quarantined" if row.state == "draining" and row.quarantined_at is not None else row.state


def _worker(row: WorkerRow, running: str | None) -> Worker:
    return Worker(
        id=row.id,
        name=row.name,
        state=_shown(row),
        platform=row.platform,
        host=row.host,
        capabilities=row.capabilities,
        queues=row.queues,
        running=running,
        quarantine=row.quarantine_reason,
        started_at=row.started_at,
        last_seen_at=row.last_seen_at,
    )


def has_toolchain(row: WorkerRow, toolchain: str, version: str | None = None, stage: str | None = None) -> bool:
    return any(
        found["toolchain"] == toolchain
        and (version is None or found["version"] == version)
        and (stage is None or stage in found["stages"])
        for found in row.capabilities
    )


def platform_of(row: WorkerRow) -> Platform:
    return Platform.model_validate(row.platform)
