"""Register this worker in the catalogue, and repeat it every few seconds: a worker that stops is listed as gone."""

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
    """One worker process: `id` is new at each start, `name` stays the same over restarts."""

    id: str
    name: str
    fingerprint: Fingerprint
    capabilities: Sequence[Capability]
    queues: Sequence[str]


class Presence:
    """Keeps the row of one worker up to date from a daemon thread. A row that was lost, it inserts again."""

    def __init__(self, database: Database, identity: Identity, loops: Loops, *, every_seconds: float) -> None:
        self._database = database
        self._identity = identity
        self._thread = loops.thread(
            "the report of this worker to the catalogue", self._register, every_seconds=every_seconds
        )

    def start(self) -> None:
        """Register once in the caller's thread, so that a wrong setup fails at the start; then repeat in a thread."""
        self._register()
        self._thread.start()

    def stop(self) -> None:
        """End the repetition and remove the worker from the fleet; the sweep does it later if the database is away."""
        self._thread.stop()
        # First the thread: a registration after the removal would bring the worker back.
        self._thread.join()
        try:
            with self._database.write() as session:
                deregister(session, self._identity.id)
        except Exception as error:  # noqa: BLE001  # the rest of the worker's end must follow
            log.warning("could not say goodbye; the sweep will notice: %s", message_of(error))

    def _register(self) -> None:
        identity = self._identity
        with self._database.write() as session:
            register(
                session,
                identity.id,
                identity.name,
                identity.fingerprint,
                identity.capabilities,
                identity.queues,
            )
