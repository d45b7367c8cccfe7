"""What makes room: a clean-up by policy, and the deletion of one engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import Administrator
from api.control import Control
from api.upkeep.garbage_collection import clean_up
from enginefarm.contract.key import Key
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, RemovalPage
from models.queries.engines import MAX_PAGE
from models.queries.removals import removals
from models.retention.removal import request_removal

router = APIRouter(prefix="/v1", tags=["upkeep"])


@router.post("/gc")
def collect(wanted: CleanUpRequest, control: Control, caller: Administrator) -> CleanUpResult:
    """Mark what no policy keeps, remove what was marked a grace ago, and delete bytes that nothing refers to.

    Answers when the whole store is listed: minutes, for a large one.
    """
    return clean_up(control, wanted, by=caller.name)


@router.get("/removals")
def list_removals(
    control: Control,
    _: Administrator,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> RemovalPage:
    """What clean-ups removed, newest first: what it was, why, when and by whom."""
    with control.database.read() as session:
        return removals(session, limit=limit, cursor=cursor)


@router.delete("/engines/{key}", status_code=204, responses={409: {"description": "it is pinned"}})
def delete_engine(key: Key, control: Control, caller: Administrator) -> None:
    """Serve an engine no more. Clean-ups remove it when its grace is over; until then, building it anew is all that
    brings it back."""
    with control.database.write() as session:
        request_removal(session, key, f"deleted by {caller.name}" if caller.name else "deleted")
