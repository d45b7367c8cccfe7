"""Garbage collection by retention policy, the list of its removals, and the deletion of one engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.auth import Administrator
from api.control import Control
from api.http.openapi import refuses
from api.http.routing import bounded_router
from api.lanes import in_lane
from api.upkeep.garbage_collection import clean_up
from enginefarm.contract.bounded import Text
from enginefarm.contract.key import Key
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, RemovalPage
from models.queries.engines import MAX_PAGE
from models.queries.removals import removals
from models.retention.removal import request_removal

router = bounded_router(prefix="/v1", tags=["upkeep"])


@router.post("/gc")
@in_lane("upkeep")
def collect(request: CleanUpRequest, control: Control, caller: Administrator) -> CleanUpResult:
    """Mark engines and checkpoints that no policy keeps, remove those whose grace is over, delete unreferenced blobs.

    The answer comes when the whole store was listed, which takes minutes for a large one.
    """
    return clean_up(control, request, by=caller.name)


@router.get("/removals")
@in_lane("listings")
def list_removals(
    control: Control,
    _: Administrator,
    cursor: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> RemovalPage:
    """Engines and checkpoints that were removed, newest first, each with reason, time and caller."""
    with control.database.read() as session:
        return removals(session, limit=limit, cursor=cursor)


@router.delete("/engines/{key:key}", status_code=204, responses=refuses(409, 410))
def delete_engine(key: Key, control: Control, caller: Administrator) -> None:
    """Stop serving an engine. Garbage collection removes it when its grace is over.

    Only a new build or an import of this key brings it back.
    """
    # A request is enough here: nodes that hold a link may still be pulling its bytes.
    reason = "deleted"
    if caller.name:
        reason = f"deleted by {caller.name}"
    with control.database.write() as session:
        request_removal(session, key, reason)
