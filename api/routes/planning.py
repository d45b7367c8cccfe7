"""What a spec would become, and many specs at once: /v1/builds:explain and /v1/builds:matrix."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AfterValidator

from api.auth import Reader, Submitter
from api.builds.explain import explain
from api.builds.submit import submit_spec
from api.control import Control, ControlPlane
from api.routes.builds import RequireWorker
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.portable import portable
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import ProblemDocument
from enginefarm.wire.explanation import Explanation
from enginefarm.wire.matrix import Cell, Matrix, cells
from models.security.api_keys import Caller

router = APIRouter(tags=["builds"])


@router.post("/v1/builds:explain")
def explain_build(spec: BuildSpec, control: Control, _: Reader) -> Explanation:
    """What a submit of this spec would do, and why: nothing is written, and nothing is refused that has a form."""
    return explain(control, spec)


@router.post("/v1/builds:matrix")
def submit_matrix(
    spec: Annotated[dict[str, Any], AfterValidator(portable)],
    control: Control,
    caller: Submitter,
    require_worker: RequireWorker = False,
) -> Matrix:
    """Submit every combination of the lists in a spec; each is accepted or refused on its own.

    To give an option a list as its value, put it into another list.
    """
    return Matrix(
        cells=[_cell(control, axes, cell, caller, require_worker=require_worker) for axes, cell in cells(spec)]
    )


def _cell(
    control: ControlPlane, axes: dict[str, Any], spec: dict[str, Any], caller: Caller, *, require_worker: bool
) -> Cell:
    try:
        submitted = submit_spec(control, BuildSpec.parse(spec), caller, require_worker=require_worker)
    except EnginefarmError as error:
        return Cell(axes=axes, status=error.status, problem=ProblemDocument.of(error))
    return Cell(axes=axes, status=submitted.status, submitted=submitted)
