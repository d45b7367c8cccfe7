"""Note that engines are pulled: garbage collection keeps an engine while a link to its files is valid."""

from __future__ import annotations

from collections.abc import Collection

from api.control import ControlPlane
from enginefarm.contract.errors import NotFound
from models.retention import pulls


def note_pull(control: ControlPlane, keys: Collection[str]) -> None:
    """Note a pull of each engine. Call it before the link is made, or a removal could come between the two.

    Raises:
        NotFound: an engine was removed since the caller read it.
    """
    # A node pulls all files of an engine in a row: only the first of them costs a write.
    with control.database.read() as session:
        unnoted = pulls.without_recent_pull(session, keys)
    if not unnoted:
        return
    with control.database.write() as session:
        if not pulls.record_pull(session, unnoted):
            raise NotFound("the engine was removed a moment ago; GET /v1/engines lists the engines")
