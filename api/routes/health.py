"""Liveness: the process answers. Readiness: the database, the broker and the store answer, too."""

from __future__ import annotations

from fastapi import Response

from api.control import Control
from api.routing import bounded_router
from enginefarm.contract.errors import EnginefarmError
from enginefarm.wire.bodies import Dependency, Readiness

router = bounded_router(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    # Asks no dependency: an orchestrator would restart the process for an outage that a restart cannot end.
    return {"ok": True}


@router.get("/readyz", responses={503: {"model": Readiness, "description": "one of them does not answer"}})
def readyz(control: Control, response: Response) -> Readiness:
    """Database, broker and store, each with its error if it does not answer."""
    pings = {"database": control.database.ping, "broker": control.announcer.ping, "store": control.store.ping}
    ok = True
    dependencies = {}
    for name, ping in pings.items():
        try:
            ping()
        except EnginefarmError as error:
            ok = False
            dependencies[name] = Dependency(ok=False, detail=error.detail)
        else:
            dependencies[name] = Dependency(ok=True)
    if not ok:
        # Load balancers look at the status only.
        response.status_code = 503
    return Readiness(ok=ok, parts=dependencies)
