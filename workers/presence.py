"""Register this process's workers in the catalogue, and again every few seconds: one that stops is listed as gone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from enginefarm.contract.host import Fingerprint
from enginefarm.wire.bodies import Capability
from models.catalogue.database import Database
from models.fleet.registration import deregister, register
from models.loops import Loops, message_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """A worker as the catalogue lists it: `id` is new at each start, `name` stays the same over restarts."""

    id: str
    name: str
    fingerprint: Fingerprint
    capabilities: Sequence[Capability]
    queues: Sequence[str]


class Presence:
    """Keeps the rows of a process's workers up to date from a daemon thread. A row that was lost, it inserts again."""

    def __init__(
        self, database: Database, identities: Sequence[Identity], loops: Loops, *, every_seconds: float
    ) -> None:
        self._database = database
        self._identities = identities
        self._thread = loops.thread(
            "the report of this worker to the catalogue", self._register, every_seconds=every_seconds
        )

    def start(self) -> None:
        """Register once in the caller's thread, so that a wrong setup fails at the start; then repeat in a thread."""
        self._register()
        self._thread.start()

    def stop(self) -> None:
        """End the repetition and remove the workers from the fleet; the sweep does it later if the database is away."""
        self._thread.stop()
        # First the thread: a registration after the removal would bring the worker back.
        self._thread.join()
        try:
            with self._database.write() as session:
                for identity in self._identities:
                    deregister(session, identity.id)
        except Exception as error:  # noqa: BLE001  # the rest of the worker's end must follow
            log.warning("could not say goodbye; the sweep will notice: %s", message_of(error))

    def _register(self) -> None:
        with self._database.write() as session:
            for identity in self._identities:
                register(
                    session,
                    identity.id,
                    identity.name,
                    identity.fingerprint,
                    identity.capabilities,
                    identity.queues,
                )
