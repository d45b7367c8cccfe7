"""List the workers: all, the live ones, and those that serve a queue. Reads only.

Workers write their own rows, and one that was taken over may write anything. A row that cannot be read is left out, or
nobody could submit.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from functools import lru_cache

from pydantic import ValidationError
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.platform import Platform
from enginefarm.wire.bodies import Worker
from models.catalogue.rows import AttemptRow, WorkerRow
from models.catalogue.states import Outcome
from models.fleet.gpu_use import describe, gpus_in_use, use_by_another
from models.fleet.worker_states import IS_LIVE, IS_PRESENT, IS_QUARANTINED, state_shown

log = logging.getLogger(__name__)

MOST_GONE = 500  # in a list of workers


def present_workers(session: Session) -> list[WorkerRow]:
    """Workers that report, by name: the live ones, and those that take no new work."""
    return [row for row, _ in _readable(session, select(WorkerRow).where(IS_PRESENT).order_by(WorkerRow.name))]


def live_workers(session: Session) -> list[WorkerRow]:
    """Workers that report and take new work, by name."""
    return [row for row, _ in _readable(session, select(WorkerRow).where(IS_LIVE).order_by(WorkerRow.name))]


def workers_serving(session: Session, queue: str) -> list[WorkerRow]:
    """The live workers that listen to `queue`."""
    # Not in SQL: the two databases search in JSON lists differently, and a fleet has few rows.
    return [worker for worker in live_workers(session) if queue in worker.queues]


def quarantined_workers(session: Session) -> list[WorkerRow]:
    """The quarantined workers, by name: those that report."""
    return [row for row, _ in _readable(session, select(WorkerRow).where(IS_QUARANTINED).order_by(WorkerRow.name))]


def list_workers(session: Session, *, include_gone: bool = False, ids: Collection[str] | None = None) -> list[Worker]:
    """The fleet as GET /v1/workers shows it, each worker with the action that it runs, or the one it waits for.

    `include_gone`: also those that left, the last MOST_GONE of them. `ids`: only these workers.
    """
    query = select(WorkerRow).order_by(WorkerRow.name, WorkerRow.started_at)
    if not include_gone:
        query = query.where(IS_PRESENT)
    elif ids is None:
        # Each start of a worker leaves a row.
        last_gone = select(WorkerRow.id).where(~IS_PRESENT).order_by(WorkerRow.last_seen_at.desc()).limit(MOST_GONE)
        query = query.where(or_(IS_PRESENT, WorkerRow.id.in_(last_gone)))
    if ids is not None:
        query = query.where(WorkerRow.id.in_(ids))
    actions = _running_actions(session)
    in_use = gpus_in_use(session)
    workers = []
    for row, worker in _readable(session, query):
        # A worker takes the next action when the programs of the one before have ended.
        *finishing, running = actions.get(row.id, [None])
        use = None
        # A worker may convert on its processor meanwhile.
        if running is None:
            use = use_by_another(in_use, worker.host.gpu_uuids, row.id)
        waits_for = describe(use) if use is not None else None
        workers.append(worker.model_copy(update={"running": running, "finishing": finishing, "waits_for": waits_for}))
    return workers


def _running_actions(session: Session) -> dict[str, list[str]]:
    """The keys of the running actions by worker, the latest attempt last. One query for the fleet, not one a worker."""
    query = select(AttemptRow.action_key, AttemptRow.worker_id).where(AttemptRow.outcome == Outcome.RUNNING)
    query = query.order_by(AttemptRow.started_at)
    actions: dict[str, list[str]] = {}
    for key, worker_id in session.execute(query):
        actions.setdefault(worker_id, []).append(key)
    return actions


def _readable(session: Session, query: Select[WorkerRow]) -> Iterator[tuple[WorkerRow, Worker]]:
    """The rows that the query selects and that say what a worker says."""
    for row in session.execute(query).scalars():
        try:
            worker = Worker(
                id=row.id,
                name=row.name,
                state=state_shown(row),
                platform=row.platform,
                host=row.host,
                capabilities=row.capabilities,
                queues=row.queues,
                quarantine=row.quarantine_reason,
                started_at=row.started_at,
                last_seen_at=row.last_seen_at,
            )
        except ValidationError as error:
            _warn_once(row.id, row.name, str(error.errors()[0]["loc"]))
        else:
            yield row, worker


@lru_cache(maxsize=1000)
def _warn_once(worker_id: str, name: str, field: str) -> None:
    log.warning("worker %s (%s) is left out: its row cannot be read at %s", ascii(name), ascii(worker_id), field)


def has_toolchain(row: WorkerRow, toolchain: str, version: str | None = None, stage: str | None = None) -> bool:
    """True if the worker reported this toolchain, in this version and for this stage where they are given."""
    for capability in row.capabilities:
        if capability["toolchain"] != toolchain:
            continue
        if version is not None and capability["version"] != version:
            continue
        if stage is None or stage in capability["stages"]:
            return True
    return False


def platform_of(row: WorkerRow) -> Platform:
    """The platform that the worker reported."""
    return Platform.model_validate(row.platform)
