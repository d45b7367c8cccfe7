"""Detect that the worker receives no messages although its queues have some, and restart it.

After a broker's reset, Celery's connection may look healthy and deliver nothing. A worker that is idle and sees
messages in its own queues at several checks in a row restarts itself. It runs no stage then, so no work is lost.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from enginefarm.contract.errors import BrokerUnavailable
from models.loops import Loops

log = logging.getLogger(__name__)

# Checks. One or two may fall between the arrival of a message in the queue and its delivery to an idle worker.
_RESTART_AFTER = 3


class MessageActivity:
    """How many messages the worker received, and how many messages and attempts it is working on now.

    Args:
        slots: how many messages it works on at once.
    """

    def __init__(self, slots: int = 1) -> None:
        self.count = 0
        self._slots = slots
        self._lock = threading.Lock()
        self._messages = 0
        self._attempts = 0

    @contextmanager
    def message(self) -> Iterator[None]:
        """The time during which a slot takes no other message."""
        with self._lock:
            self.count += 1
            self._messages += 1
        try:
            yield
        finally:
            with self._lock:
                self._messages -= 1

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """The time of an attempt; a slot may take its next message before it ends."""
        with self._lock:
            self._attempts += 1
        try:
            yield
        finally:
            with self._lock:
                self._attempts -= 1

    @property
    def busy(self) -> bool:
        """True if a restart would stop an attempt, or if no slot is free for a message."""
        return self._attempts > 0 or self._messages >= self._slots

    @property
    def at_rest(self) -> bool:
        """True if nothing is under way."""
        return self._attempts == 0 and self._messages == 0


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
