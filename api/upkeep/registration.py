"""Store what the registry names new engines by, soon after their publication. See models.queries.registry_entries."""

from __future__ import annotations

from functools import partial

from api.control import ControlPlane
from models.queries.registry_entries import has_unregistered, register_engines

EVERY_SECONDS = 2.0
_BATCH = 500
_BATCHES = 4  # in a row; after an upgrade all engines of the catalogue are waiting


async def register_new_engines(control: ControlPlane) -> None:
    """Store the entries of up to some thousand engines, in the thread that this has."""
    await control.lanes.registration.run(None, partial(register_batches, control))


def register_batches(control: ControlPlane) -> None:
    """Store the entries in a transaction for each batch."""
    for _ in range(_BATCHES):
        with control.database.read() as session:
            if not has_unregistered(session):
                return
        with control.database.write() as session:
            if register_engines(session, limit=_BATCH) < _BATCH:
                return
