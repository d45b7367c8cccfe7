"""Workers as the catalogue knows them: who is there, on what platform, able to do what."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from enginefarm.fingerprint import Fingerprint
from enginefarm.platform import Platform
from enginefarm.wire import Capability, Worker
from models.clock import now
from models.insertion import upsert
from models.rows import ActionRow, WorkerRow


def register(
    session: Session,
    worker_id: str,
    name: str,
    fingerprint: Fingerprint,
    capabilities: Sequence[Capability],
    queues: Sequence[str],
) -> None:
    """Say that this worker is there. Said again every few seconds, so it also repairs a row that was lost."""
    upsert(
        session,
        WorkerRow,
        {
            "id": worker_id,
            "name": name,
            "state": "live",
            "platform": fingerprint.platform.model_dump(),
            "host": fingerprint.host.model_dump(),
            "capabilities": [capability.model_dump(mode="json") for capability in capabilities],
            "queues": list(queues),
            "last_seen_at": now(),
        },
    )


def leave(session: Session, worker_id: str) -> None:
    session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(state="gone"))


def mark_gone(session: Session, *, after_seconds: float) -> int:
    """Mark every worker that has been silent for so long; returns how many."""
    silent = (WorkerRow.state != "gone", WorkerRow.last_seen_at < now(-after_seconds))
    done = session.execute(update(WorkerRow).where(*silent).values(state="gone"))
    return int(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult


def live_workers(session: Session) -> list[WorkerRow]:
    rows = session.execute(select(WorkerRow).where(WorkerRow.state == "live").order_by(WorkerRow.name))
    return list(rows.scalars())


def list_workers(session: Session, *, include_gone: bool = False) -> list[Worker]:
    where = [] if include_gone else [WorkerRow.state != "gone"]
    running = dict(
        session.execute(select(ActionRow.worker_id, ActionRow.key).where(ActionRow.worker_id.is_not(None))).all()
    )
    rows = session.execute(select(WorkerRow).where(*where).order_by(WorkerRow.name, WorkerRow.started_at)).scalars()
    return [_worker(row, running.get(row.id)) for row in rows]


def _worker(row: WorkerRow, running: str | None) -> Worker:
    return Worker(
        id=row.id,
        name=row.name,
        state=row.state,
        platform=row.platform,
        host=row.host,
        capabilities=row.capabilities,
        queues=row.queues,
        running=running,
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
