"""The thread of an API process that hears of changes in the catalogue, and tells the watch of builds."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TypeVar

from api.watching.watch import LOOK_SECONDS, Watch
from models.catalogue.changes import listen_for_changes
from models.catalogue.database import Database

log = logging.getLogger(__name__)

T = TypeVar("T")

_WAIT_SECONDS = 0.5  # until the listener notices that nobody watches any more, or that the process ends
_IDLE_SECONDS = 30.0  # without watchers, until it gives its connection back
_POOLER_SECONDS = 60.0  # until it tries again whether a pooler is still in between


class ChangeListener:
    """Has a connection while somebody watches builds.

    Args:
        loop: in which the watch is used.
    """

    def __init__(self, database: Database, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._watch = watch
        self._loop = loop
        self._closing = threading.Event()

    def close(self) -> None:
        """Let `listen` return."""
        self._closing.set()

    def listen(self) -> None:
        """Hear of changes until nobody watches; return at once if nobody does. Run it again and again.

        Raises:
            DatabaseUnavailable: the connection is lost or cannot be made. Until the next call the watch looks often.
        """
        if not self._watch.is_needed:
            return
        changes = listen_for_changes(self._database)
        if changes is None:
            log.info("watched builds are looked at every %s s: notifications do not pass a pooler", LOOK_SECONDS)
            self._closing.wait(_POOLER_SECONDS)
            return
        with closing(changes):
            self._tell(self._watch.set_interval, changes.look_seconds)
            try:
                needed_at = time.monotonic()
                while not self._closing.is_set() and time.monotonic() - needed_at < _IDLE_SECONDS:
                    if self._watch.is_needed:
                        needed_at = time.monotonic()
                    heard = changes.wait(_WAIT_SECONDS)
                    if heard:
                        self._tell(self._watch.hear, heard)
            finally:
                self._tell(self._watch.set_interval, LOOK_SECONDS)

    def _tell(self, callback: Callable[[T], None], argument: T) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(callback, argument)
