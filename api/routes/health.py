"""Liveness: the process answers. Readiness: the database, the broker and the store answer, too."""

from __future__ import annotations

from fastapi import Response

from api.control import Control
from api.http.routing import bounded_router
from enginefarm.wire.bodies import Readiness

router = bounded_router(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    # Asks no dependency: an orchestrator would restart the process for an outage that a restart cannot end.
    return {"ok": True}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "one of them does not answer"}})
async def readyz(control: Control, response: Response) -> Readiness:
    """Database, broker and store, each with its error if it does not answer."""
    readiness = await control.readiness.ask()
    if not readiness.ok:
        # Load balancers look at the status only.
        response.status_code = 503
    return readiness
