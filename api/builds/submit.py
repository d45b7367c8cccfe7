"""From a spec to an accepted build: plan; answer from the catalogue, or one transaction and then the announcement."""

from __future__ import annotations

from api.builds.availability import require_worker as refuse_without_worker
from api.builds.availability import too_small_for, why_unserved
from api.control import ControlPlane
from api.planning.cached_submits import cached
from api.planning.planner import Plan
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import BuildState, Disposition, Submitted
from models.lifecycle.submission import Request, submit
from models.queries.builds import build_state
from models.queries.engines import find_engine
from models.security.api_keys import Caller


def submit_spec(control: ControlPlane, spec: BuildSpec, caller: Caller, *, require_worker: bool) -> Submitted:
    """Raises InvalidSpec with everything that is wrong, SourceUnavailable if the model's source is away."""
    plan = control.planner.plan(spec)
    request = plan.asked_by(caller.name)
    [hit] = cached(control.database, [(plan, request)])
    return hit or _queued(control, plan, request, require_worker=require_worker)


def _queued(control: ControlPlane, plan: Plan, request: Request, *, require_worker: bool) -> Submitted:
    """Created or joined; or, if the engine was published this instant, cached after all."""
    fleet = control.fleet.workers()
    with control.database.write() as session:
        if require_worker:
            refuse_without_worker(session, request, fleet)
        accepted = submit(session, request)
    control.announcer.announce(accepted.announcements)
    there = accepted.disposition is Disposition.CACHED
    with control.database.snapshot() as session:
        state = BuildState.SUCCEEDED if there else build_state(session, accepted.id)
        engine = find_engine(session, request.build.key) if state is BuildState.SUCCEEDED else None
        waiting_for = why_unserved(session, request, fleet) if state is BuildState.QUEUED else None
        remarks = too_small_for(session, request, fleet) if state is BuildState.QUEUED else []
    return Submitted(
        id=accepted.id,
        key=request.build.key,
        disposition=accepted.disposition,
        state=state,
        engine=engine,
        waiting_for=waiting_for,
        notes=[*plan.notes, *remarks],
    )
