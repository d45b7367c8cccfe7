"""Open mode: while no API key exists, requests need none. The first key closes every API process within a second.

Only a process that listens on loopback starts open (`api.app`), and then it serves only programs of this machine
(`api.access.local_requests`).
"""

from __future__ import annotations

import logging
import time

from starlette.concurrency import run_in_threadpool

from models.caching import SingleFlight
from models.catalogue.database import Database
from models.security.api_keys import any_key

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # at most so long requests without a key are served after the first key was made


class OpenMode:
    """Whether this process serves requests without an API key. Once closed it stays closed, keys revoked or not."""

    def __init__(self, database: Database, *, starts_open: bool) -> None:
        self._database = database
        self._looked_at = time.monotonic()
        self._looks: SingleFlight[str, None] = SingleFlight()
        self.was_open = starts_open  # at the last look into the catalogue

    async def is_open(self) -> bool:
        """Whether no key exists, by a look into the catalogue that is at most a second old.

        Raises:
            DatabaseUnavailable: it is not known whether a key exists, so no request without a key may be served.
        """
        if self.was_open and time.monotonic() - self._looked_at > LOOK_SECONDS:
            await run_in_threadpool(self._looks.run, "any key", self._look)
        return self.was_open

    async def look(self) -> None:
        """Look for a key while none was seen. Called once a second: an idle process closes, too, and logs when."""
        if self.was_open:
            await run_in_threadpool(self._looks.run, "any key", self._look)

    def _look(self) -> None:
        with self._database.read() as session:
            a_key_exists = any_key(session)
        self._looked_at = time.monotonic()
        if a_key_exists and self.was_open:
            self.was_open = False
            log.warning("the first API key was made: from now on every request needs a key")
