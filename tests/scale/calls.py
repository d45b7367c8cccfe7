"""The calls whose time must not grow with the catalogue: listings, lookups, the outlook of builds, sweep and upkeep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.spec import Limits
from enginefarm.wire.resolution import EngineRequirements
from models.catalogue.database import Database
from models.catalogue.pagination import to_cursor, to_time_cursor
from models.catalogue.rows import ActionRow, BuildRow, EngineRow, WorkerRow
from models.catalogue.states import ActionState
from models.fleet.registration import mark_silent_workers_gone
from models.fleet.roster import list_workers
from models.fleet.worker_control import quarantine_if_sick
from models.lifecycle import recovery
from models.lifecycle.leases import Claim, claim_next, expire
from models.lifecycle.warm_files import StoredWarmFile, record_warmth
from models.queries.builds import get_build, list_builds
from models.queries.engines import get_engine, list_engines
from models.queries.estimates import usual_seconds
from models.queries.outlook import Fleet
from models.queries.resolution import resolve
from tests.scale.fill import COMMON_MODEL, QUEUE, RARE_MODEL, RARE_REQUESTER, REQUESTER, held_inputs
from tests.scale.upkeep_calls import upkeep_calls

PAGE = 50
_WARM_FILE = StoredWarmFile("sha256:" + "0" * 64, 1)


@dataclass(frozen=True)
class Call:
    """A read as a route or the sweep makes it. The sweep also updates rows where it finds any to mend."""

    name: str
    run: Callable[[Session], object]


def calls(database: Database, engines: int) -> list[Call]:
    """The calls, with keys and cursors of rows that the catalogue has."""
    with database.read() as session:
        oldest = select(EngineRow.key).order_by(EngineRow.created_at).limit(1)
        engine = session.execute(oldest).scalar_one()
        tenth = (
            select(EngineRow.created_at, EngineRow.key).order_by(EngineRow.created_at).offset(engines // 10).limit(1)
        )
        deep_engines = to_time_cursor(*session.execute(tenth).one())
        newest = select(BuildRow.seq, BuildRow.id, BuildRow.key).order_by(BuildRow.seq.desc()).limit(1)
        queued = session.execute(newest).one()
        limits = Limits.model_validate(session.get_one(EngineRow, engine).spec["limits"])
        running = session.execute(select(ActionRow).where(ActionRow.state == ActionState.RUNNING).limit(1)).scalar_one()
        build_of_running = session.execute(select(BuildRow.id).where(BuildRow.key == running.key)).scalar_one()
        worker = session.execute(select(WorkerRow.id).where(WorkerRow.name == "worker-1")).scalar_one()
        checkpoint = running.depends_on
        claim = Claim(
            key=running.key, attempt=running.attempt, tries=running.tries, stage=running.stage, queue=running.queue,
            document=running.document, stored_work=running.work, checkpoint=None, worker_id=worker,
        )  # fmt: skip
    deep_builds = to_cursor(queued.seq // 10)

    def builds(cursor: str | None = None, **filters: str | None) -> Callable[[Session], object]:
        return lambda session: list_builds(session, limit=PAGE, cursor=cursor, **filters)

    def engines_of(model: str | None, cursor: str | None = None) -> Callable[[Session], object]:
        return lambda session: list_engines(session, limit=PAGE, cursor=cursor, model=model)

    def resolved(model: str) -> Callable[[Session], object]:
        requirements = EngineRequirements(model=model, limits=limits)
        return lambda session: resolve(session, requirements)

    def claimed(*held: str) -> Callable[[Session], object]:
        return lambda session: claim_next(session, f"{QUEUE}1", worker, lease_seconds=30, held=held)

    return [
        Call("claim, by age", claimed()),
        Call("claim, warm", claimed(*held_inputs(32))),
        Call("claim, none of 32 inputs is queued", claimed(*(f"{number:064x}" for number in range(32)))),
        Call("builds, first page", builds()),
        Call("builds, a page at 90 %", builds(cursor=deep_builds)),
        *(Call(f"builds, {state}", builds(state=state)) for state in ("queued", "running", "failed", "cancelled")),
        Call("builds of a common model", builds(model=COMMON_MODEL)),
        Call("builds of a rare model", builds(model=RARE_MODEL)),
        Call("builds of an unknown model", builds(model="hf:bench/none")),
        Call("builds of a requester", builds(requested_by=REQUESTER)),
        Call("builds of a rare requester", builds(requested_by=RARE_REQUESTER)),
        Call("builds of an unknown requester", builds(requested_by="nobody")),
        Call("builds of a key", builds(key=engine)),
        Call("builds of an unknown platform", builds(platform="cpu-none")),
        Call("builds of an unknown toolchain", builds(toolchain="none")),
        Call("a queued build", lambda session: get_build(session, queued.id)),
        Call("a running build", lambda session: get_build(session, build_of_running)),
        Call("engines, first page", engines_of(None)),
        Call("engines, a page at 90 %", engines_of(None, deep_engines)),
        Call("engines of a common model", engines_of(COMMON_MODEL)),
        Call("engines of a rare model", engines_of(RARE_MODEL)),
        Call("engines of an unknown model", engines_of("hf:bench/none")),
        Call("an engine", lambda session: get_engine(session, engine)),
        Call("resolve, a common model", resolved(COMMON_MODEL)),
        Call("resolve, a rare model", resolved(RARE_MODEL)),
        Call("usual time of a queue", lambda session: usual_seconds(session, f"{QUEUE}1", checkpoint=checkpoint)),
        Call("outlook of a new action", lambda session: Fleet(session).what_it_waits_for(f"{QUEUE}1", None)),
        Call("workers", lambda session: list_workers(session)),
        Call("workers, with those that left", lambda session: list_workers(session, include_gone=True)),
        Call("time that a warm file saved", lambda session: record_warmth(session, claim, _WARM_FILE, seconds=1)),
        Call("quarantine_if_sick", lambda session: quarantine_if_sick(session, worker, after=3)),
        Call("sweep: silent workers", lambda session: mark_silent_workers_gone(session, after_seconds=1e6)),
        Call("sweep: expired leases", lambda session: expire(session, max_tries=3)),
        Call("sweep: released builds", recovery.queue_released_builds),
        Call("sweep: due by queue", lambda session: recovery.count_due_by_queue(session, most=300)),
        Call("sweep: announce", lambda session: recovery.mark_announced(session, f"{QUEUE}1", 10)),
        *(Call(name, run) for name, run in upkeep_calls(database)),
    ]
