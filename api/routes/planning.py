"""/v1/builds:explain plans a spec without submitting it; /v1/builds:matrix submits many specs at once."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Request
from pydantic import AfterValidator

from api.auth import Reader, Submitter
from api.builds.explain import explain
from api.builds.submit import submit
from api.control import Control, ControlPlane
from api.http.leaving import while_connected
from api.http.routing import bounded_router
from api.routes.builds import RequireWorker
from enginefarm.contract.errors import EnginefarmError, first_problems
from enginefarm.contract.portable import portable
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import ProblemDocument
from enginefarm.wire.explanation import Explanation
from enginefarm.wire.matrix import Cell, Matrix, cells
from models.security.api_keys import Caller

router = bounded_router(tags=["builds"])

MAX_MATRIX_PROBLEMS = 1000  # of all cells together; after that each cell shows its first


@router.post("/v1/builds:explain")
async def explain_build(spec: BuildSpec, control: Control, caller: Reader, request: Request) -> Explanation:
    """What a submit of this spec would do, and why. Writes nothing; a spec with findings is explained, not refused."""

    async def run() -> Explanation:
        lane = await control.resolutions.lane_for(spec, caller.name, control.lanes.planning)
        return await lane.run(caller.name, partial(explain, control, spec))

    return await while_connected(request, run())


@router.post("/v1/builds:matrix")
async def submit_matrix(
    spec: Annotated[dict[str, Any], AfterValidator(portable)],
    control: Control,
    caller: Submitter,
    request: Request,
    require_worker: RequireWorker = False,
) -> Matrix:
    """Submit every combination of the lists in a spec; each is accepted or refused on its own.

    To give an option a list as its value, put it into another list.
    """
    return await while_connected(request, _submit_cells(control, spec, caller, require_worker=require_worker))


async def _submit_cells(control: ControlPlane, spec: dict[str, Any], caller: Caller, *, require_worker: bool) -> Matrix:
    matrix = []
    problems_left = MAX_MATRIX_PROBLEMS
    for axes, cell_spec in cells(spec):
        # A cell that is refused must not undo or stop the others: each is a submit of its own.
        try:
            # In a thread: a spec with hundreds of mistakes takes milliseconds, and a matrix has many.
            parsed = await control.lanes.planning.run(caller.name, partial(BuildSpec.parse, cell_spec))
            submitted = await submit(control, parsed, caller, require_worker=require_worker)
        except EnginefarmError as error:
            problems = first_problems(error.problems, max(1, problems_left))
            problems_left -= len(problems)
            document = ProblemDocument.of(error).model_copy(update={"errors": list(problems)})
            matrix.append(Cell(axes=axes, status=error.status, problem=document))
        else:
            matrix.append(Cell(axes=axes, status=submitted.status, submitted=submitted))
    return Matrix(cells=matrix)
