"""The slots of a worker: each runs the programs of one attempt at a time, and finishes the one before meanwhile.

An attempt has its slot's turn from its message until its programs have ended. It passes the turn on then: the slot
takes its next message, and the attempt is checked, uploaded and published in its own thread, under its own lease.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from workers.broker_watchdog import MessageActivity
from workers.runner import Runner
from workers.turn import Slot, Turn

log = logging.getLogger(__name__)


class Slots:
    """Hands each message to a slot that is free. Call `close` at the end.

    Args:
        runners: one for each slot.
    """

    def __init__(self, runners: Sequence[Runner], activity: MessageActivity) -> None:
        self._activity = activity
        self._free = SimpleQueue[tuple[Runner, Slot]]()
        for runner in runners:
            self._free.put((runner, Slot()))
        # For each slot one attempt that computes, and one that finishes.
        self._attempts = ThreadPoolExecutor(2 * len(runners), thread_name_prefix="attempt")

    def receive(self, announced: str, queue: str) -> None:
        """Work on a message; returns when the slot may take the next one. There must be a call at a time a slot."""
        with self._activity.message():
            runner, slot = self._free.get()
            try:
                turn = Turn(slot)
                self._attempts.submit(self._run, runner, announced, queue, turn)
                turn.wait()
            finally:
                self._free.put((runner, slot))

    def close(self) -> None:
        """Wait for the attempts that are finishing: their heartbeats end them if the worker is leaving."""
        self._attempts.shutdown()

    def _run(self, runner: Runner, announced: str, queue: str, turn: Turn) -> None:
        try:
            runner.run(announced, queue, turn)
        except Exception:
            # The executor would keep it to itself.
            log.exception("an attempt of %s ended by a defect; the sweep will announce its action again", queue)
        finally:
            turn.end()
