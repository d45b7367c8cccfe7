"""Detect that the worker receives no messages although its queues have some, and restart it.

After a broker's reset, Celery's connection may look healthy and deliver nothing. A worker that is idle and sees
messages in its own queues at several checks in a row restarts itself. It runs no stage then, so no work is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from enginefarm.contract.errors import BrokerUnavailable
from models.loops import Loops

log = logging.getLogger(__name__)

# Checks. One or two may fall between the arrival of a message in the queue and its delivery to an idle worker.
_RESTART_AFTER = 3


class MessageActivity:
    """How many messages the worker received, and whether it is working on one now."""

    def __init__(self) -> None:
        self.count = 0
        self.busy = False

    @contextmanager
    def message(self) -> Iterator[None]:
        """The time during which the worker handles one message."""
        self.count += 1
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


class BrokerWatchdog:
    """Calls `restart` when the worker is idle and messages wait in its `queues` at several checks in a row.

    `depth` returns the number of messages in a queue, and raises BrokerUnavailable.
    """

    def __init__(
        self,
        activity: MessageActivity,
        queues: Sequence[str],
        depth: Callable[[str], int],
        restart: Callable[[], None],
        loops: Loops,
        *,
        every_seconds: float,
    ) -> None:
        self._activity = activity
        self._queues = queues
        self._depth = depth
        self._restart = restart
        self._last_count = 0
        self._missed_checks = 0
        self._thread = loops.thread(
            "the check that messages arrive from the broker", self.check, every_seconds=every_seconds
        )

    def start(self) -> None:
        """Check repeatedly, in a daemon thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the checks. Does not wait for one that is in progress: it may be waiting for the broker."""
        self._thread.stop()

    def check(self) -> None:
        """Check once, and restart the worker after enough checks at which messages waited."""
        try:
            messages_wait = not self._activity.busy and any(self._depth(queue) for queue in self._queues)
        except BrokerUnavailable:
            # An unreachable broker does not prove a broken delivery: Celery reconnects by itself.
            messages_wait = False
        count = self._activity.count
        received = count != self._last_count
        self._last_count = count
        # Ask again whether it is busy: a message may have arrived while the depths were read.
        if messages_wait and not received and not self._activity.busy:
            self._missed_checks += 1
        else:
            self._missed_checks = 0
        if self._missed_checks >= _RESTART_AFTER:
            log.error("messages wait and none arrives: starting anew")
            self._restart()
