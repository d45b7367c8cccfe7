"""Submit a spec: plan it, then answer from the catalogue, or create or join its actions and announce them."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from api.builds.availability import require_worker as refuse_without_worker
from api.builds.availability import too_small_for, why_unserved
from api.control import ControlPlane
from api.planning.cached_submits import record_cached
from api.planning.planner import Plan
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import BuildState, Disposition, Submitted
from models.lifecycle.submission import submit as record
from models.queries.builds import build_state
from models.queries.engines import find_engine
from models.security.api_keys import Caller


async def submit(
    control: ControlPlane, spec: BuildSpec, caller: Caller, *, plan: Plan | None = None, require_worker: bool
) -> Submitted:
    """`submit_spec` in the lane for such a spec, after its model was resolved.

    Args:
        plan: of this spec, if it was planned a moment ago and has no engine.

    Raises:
        Busy: too many submits of this caller wait already.
    """
    if plan is not None:
        create = partial(create_or_join, control, plan, caller, require_worker=require_worker)
        return await control.lanes.submits.run(caller.name, create)
    lane = await control.resolutions.lane_for(spec, caller.name, control.lanes.submits)
    return await lane.run(caller.name, partial(submit_spec, control, spec, caller, require_worker=require_worker))


def submit_spec(control: ControlPlane, spec: BuildSpec, caller: Caller, *, require_worker: bool) -> Submitted:
    """Answer a spec from the catalogue, or create or join the actions that build its engine.

    Args:
        require_worker: refuse a spec that no live worker could take, instead of letting it wait.

    Raises:
        InvalidSpec: with everything that is wrong with the spec.
        SourceUnavailable: a model's source did not answer.
    """
    plan = control.planner.plan(spec)
    # Without a lock: most submits ask for an engine that exists.
    [cached] = record_cached(control.database, [(plan, plan.requested_by(caller.name))])
    if cached is not None:
        return cached
    return create_or_join(control, plan, caller, require_worker=require_worker)


def create_or_join(control: ControlPlane, plan: Plan, caller: Caller, *, require_worker: bool) -> Submitted:
    """Create or join the actions of a plan that had no engine a moment ago, and announce them."""
    request = plan.requested_by(caller.name)
    fleet = control.fleet.live_workers()
    with control.database.write() as session:
        if require_worker:
            refuse_without_worker(session, request, fleet)
        accepted = record(session, request)
    # After the commit: a worker must find the action that a message names. The sweep announces what is lost here.
    control.announcer.announce(accepted.announcements)

    # CACHED here: the engine was published since.
    with control.database.snapshot() as session:
        state = BuildState.SUCCEEDED
        if accepted.disposition is not Disposition.CACHED:
            state = build_state(session, accepted.id)
        engine = None
        if state is BuildState.SUCCEEDED:
            engine = find_engine(session, request.build.key)
        waiting_for = None
        notes = list(plan.notes)
        # Only a build that waits is told of missing or small workers; a joined one may be running.
        if state is BuildState.QUEUED:
            waiting_for = why_unserved(session, request, fleet)
            notes += too_small_for(session, request, fleet)
    return Submitted(
        id=accepted.id,
        key=request.build.key,
        disposition=accepted.disposition,
        state=state,
        engine=engine,
        waiting_for=waiting_for,
        notes=notes,
    )


def accepted(control: ControlPlane, submitted: Submitted) -> Response:
    """The answer to POST /v1/builds, whichever path made it."""
    headers = {"Location": control.public(f"/v1/builds/{submitted.id}")}
    # Serialized here: FastAPI would validate the model a second time.
    return Response(submitted.model_dump_json(), submitted.status, headers, "application/json")
