"""Tell the catalogue, every few seconds, that this worker is there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from enginefarm.contract.errors import DatabaseUnavailable
from enginefarm.contract.host import Fingerprint
from enginefarm.wire.bodies import Capability
from models.catalogue.database import Database
from models.fleet.registration import deregister, register

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    id: str
    name: str
    fingerprint: Fingerprint
    capabilities: Sequence[Capability]
    queues: Sequence[str]


class Presence:
    def __init__(self, database: Database, identity: Identity, *, every_seconds: float) -> None:
        self._database = database
        self._identity = identity
        self._every = every_seconds
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="presence", daemon=True)

    def start(self) -> None:
        """Register once, in the caller's thread, so that a broken set-up fails at the start; then keep at it."""
        self._register()
        self._thread.start()

    def stop(self) -> None:
        self._left.set()
        self._thread.join()
        try:
            with self._database.write() as session:
                deregister(session, self._identity.id)
        except DatabaseUnavailable as error:
            log.warning("could not say goodbye; the sweep will notice: %s", error.detail)

    def _repeat(self) -> None:
        while not self._left.wait(self._every):
            try:
                self._register()
            except DatabaseUnavailable as error:
                log.warning("cannot report to the catalogue: %s", error.detail)

    def _register(self) -> None:
        me = self._identity
        with self._database.write() as session:
            register(session, me.id, me.name, me.fingerprint, me.capabilities, me.queues)
