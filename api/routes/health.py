"""Liveness says that the process answers; readiness, that everything it depends on does."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Response

from api.control import Control
from enginefarm.contract.errors import EnginefarmError
from enginefarm.wire.bodies import Dependency, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(control: Control, response: Response) -> Readiness:
    """Database, broker and store, each with what is wrong."""
    pings = {"database": control.database.ping, "broker": control.announcer.ping, "store": control.store.ping}
    parts = {name: _part(ping) for name, ping in pings.items()}
    ok = all(part.ok for part in parts.values())
    response.status_code = 200 if ok else 503
    return Readiness(ok=ok, parts=parts)


def _part(ping: Callable[[], None]) -> Dependency:
    try:
        ping()
    except EnginefarmError as error:
        return Dependency(ok=False, detail=error.detail)
    return Dependency(ok=True)
