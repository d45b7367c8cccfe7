"""Links to bytes are given out: the engine is being pulled, and a clean-up passes it by."""

from __future__ import annotations

from collections.abc import Collection

from api.control import ControlPlane
from enginefarm.contract.errors import NotFound
from models.retention import pulls


def note_pull(control: ControlPlane, keys: Collection[str]) -> None:
    """Call it before the link is made.

    Raises:
        NotFound: an engine was removed this very moment.
    """
    with control.database.read() as session:
        unnoted = pulls.without_recent_pull(session, keys)
    if not unnoted:
        return
    with control.database.write() as session:
        if not pulls.record_pull(session, unnoted):
            raise NotFound("the engine was removed a moment ago; GET /v1/engines lists what there is")
