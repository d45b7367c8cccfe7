"""Notice that no messages arrive although some wait: after a broker's reset Celery may be connected and deaf.

A worker that is idle and sees messages in its own queues, look after look, starts itself anew. It runs nothing then, so
nothing is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from enginefarm.contract.errors import BrokerUnavailable

log = logging.getLogger(__name__)

_DEAF_AFTER = 3  # looks


class Pulse:
    """How many messages arrived, and whether one is being worked on."""

    def __init__(self) -> None:
        self.count = 0
        self.busy = False

    @contextmanager
    def beat(self) -> Iterator[None]:
        self.count += 1
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


class Watch:
    def __init__(
        self,
        pulse: Pulse,
        queues: Sequence[str],
        depth: Callable[[str], int],
        restart: Callable[[], None],
        *,
        every_seconds: float,
    ) -> None:
        self._pulse, self._queues, self._depth, self._restart = pulse, queues, depth, restart
        self._every = every_seconds
        self._seen, self._deaf = 0, 0
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._repeat, name="pulse", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> None:
        """Once. A broker that is away says nothing of us: Celery connects again by itself."""
        try:
            missed = not self._pulse.busy and any(self._depth(queue) for queue in self._queues)
        except BrokerUnavailable:
            missed = False
        heard, self._seen = self._pulse.count != self._seen, self._pulse.count
        self._deaf = self._deaf + 1 if missed and not heard and not self._pulse.busy else 0
        if self._deaf >= _DEAF_AFTER:
            log.error("messages wait and none arrives: starting anew")
            self._restart()

    def _repeat(self) -> None:
        while not self._stopped.wait(self._every):
            self.look()
