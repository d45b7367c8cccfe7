"""Submit a spec: plan it, then answer from the catalogue, or create or join its actions and announce them."""

from __future__ import annotations

from functools import partial

from starlette.responses import Response

from api.control import ControlPlane
from api.planning.planner import Plan
from api.submits.new_submits import NewSubmit
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import Submitted
from models.security.api_keys import Caller


async def submit(
    control: ControlPlane, spec: BuildSpec, caller: Caller, *, plan: Plan | None = None, require_worker: bool
) -> Submitted:
    """Submit a spec that has no engine as far as is known, after its model was resolved in the lane for such a model.

    Args:
        plan: of this spec, if it was planned a moment ago and has no engine.
        require_worker: refuse a spec that no live worker could take, instead of letting it wait.

    Raises:
        Busy: too many submits of this caller wait already.
        InvalidSpec: with everything that is wrong with the spec.
        SourceUnavailable: a model's source did not answer.
    """
    if plan is None:
        lane = await control.resolutions.lane_for(spec, caller.name, control.lanes.submits)
        plan = await lane.run(caller.name, partial(control.planner.plan, spec))
    return await control.new_submits.answer(NewSubmit(plan, caller.name, require_worker))


def accepted(control: ControlPlane, submitted: Submitted) -> Response:
    """The answer to POST /v1/builds, whichever path made it."""
    headers = {"Location": control.public(f"/v1/builds/{submitted.id}")}
    # Serialized here: FastAPI would validate the model a second time.
    return Response(submitted.model_dump_json(), submitted.status, headers, "application/json")
