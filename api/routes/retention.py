"""What makes room: a clean-up by policy, and the deletion of one engine."""

from __future__ import annotations

from fastapi import APIRouter

from api.auth import Administrator
from api.cleaning import clean_up
from api.control import Control
from enginefarm.key import Key
from enginefarm.retention import CleanedUp, CleanUp
from models.removal import withdraw

router = APIRouter(prefix="/v1", tags=["upkeep"])


@router.post("/gc")
def collect(wanted: CleanUp, control: Control, caller: Administrator) -> CleanedUp:
    """Mark what no policy keeps, remove what was marked a grace ago, and delete bytes that nothing refers to.

    Answers when the whole store is listed: minutes, for a large one.
    """
    return clean_up(control, wanted, by=caller.name)


@router.delete("/engines/{key}", status_code=204, responses={409: {"description": "it is pinned"}})
def delete_engine(key: Key, control: Control, caller: Administrator) -> None:
    """Serve an engine no more. Clean-ups remove it when its grace is over; until then, building it anew is all that
    brings it back."""
    with control.database.write() as session:
        withdraw(session, key, f"deleted by {caller.name}" if caller.name else "deleted")
