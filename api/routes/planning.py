"""What a spec would become, and many specs at once: /v1/builds:explain."""

from __future__ import annotations

from fastapi import APIRouter

from api.auth import Reader
from api.control import Control
from api.explaining import explain
from enginefarm.explanation import Explanation
from enginefarm.spec import BuildSpec

router = APIRouter(tags=["builds"])


@router.post("/v1/builds:explain")
def explain_build(spec: BuildSpec, control: Control, _: Reader) -> Explanation:
    """What a submit of this spec would do, and why: nothing is written, and nothing is refused that has a form."""
    return explain(control, spec)
