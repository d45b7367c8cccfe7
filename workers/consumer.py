"""Celery's consumer, which no error of the broker ends."""

from __future__ import annotations

import logging
import math
import time
import traceback
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from models.queue.broker_errors import fault_of, is_of_broker

log = logging.getLogger(__name__)

_SLICE_SECONDS = 0.1  # after which a pause notices that the worker is told to stop
_FIRST_PAUSE_SECONDS = 1.0  # before it connects again: a replica accepts connections and refuses what follows
_LONGEST_PAUSE_SECONDS = 8.0  # each pause is twice as long as the one before
_CALM_SECONDS = 30.0  # after so long without an error the next one is new: it is logged, and the first pause is short
_REPEAT_SECONDS = 600.0  # before a fault that goes on is logged again
_FOREIGN_MESSAGE = (
    "dropped a message that no farm sent: another program writes into queues of the farm; give the farm a database of "
    "its own, as ENGINEFARM_BROKER_URL=redis://HOST:PORT/1"
)


class LastingConsumer(Consumer):  # type: ignore[misc]  # celery has no types
    """Connects again after every error.

    By itself, Celery connects again after errors of the connection only, and a failover answers with others: UNBLOCKED,
    READONLY, LOADING. An error that is not the broker's is a defect; the worker logs it with its traceback and goes on,
    because a stage may be running in its other thread.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Given at each lost connection, about tasks that are acknowledged late: here none is. Celery shows such
        # warnings always, and sets that just before it makes its consumer.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        # Its lines about a lost connection have no reason; those of this class have.
        logging.getLogger("celery.worker.consumer.consumer").setLevel(logging.ERROR)
        # `start` of the base class catches these (broker_channel_error_retry).
        self.channel_errors = (Exception,)
        self._latest_fault = ""
        self._failed_at = self._logged_at = -math.inf
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._foreign_logged_at = -math.inf

    def on_unknown_message(self, body: object, message: Any) -> None:
        self._drop(message)

    def on_unknown_task(self, body: object, message: Any, exc: Exception) -> None:
        self._drop(message)

    def on_invalid_task(self, body: object, message: Any, exc: Exception) -> None:
        self._drop(message)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._drop(message)

    def _drop(self, message: Any) -> None:
        # Not the base class's: it logs the whole message with a traceback.
        self._log_foreign_message()
        message.reject_log_error(log, self.connection_errors)

    def _log_foreign_message(self) -> None:
        now = time.monotonic()
        if now > self._foreign_logged_at + _REPEAT_SECONDS:
            self._foreign_logged_at = now
            log.warning(_FOREIGN_MESSAGE)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        # Not the base class's: it only logs.
        self._log_and_pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._log_and_pause(exc)

    def _log_and_pause(self, error: Exception) -> None:
        if _is_foreign_message(error):
            # The server has removed it, so that the next one can be read at once.
            self._log_foreign_message()
            time.sleep(_SLICE_SECONDS)
            return
        now = time.monotonic()
        if now > self._failed_at + _CALM_SECONDS:
            self._latest_fault = ""
            self._pause_seconds = _FIRST_PAUSE_SECONDS
        fault = fault_of(error).text
        if fault != self._latest_fault or now > self._logged_at + _REPEAT_SECONDS:
            self._latest_fault, self._logged_at = fault, now
            if is_of_broker(error):
                log.warning("%s; the worker connects again", fault)
            else:
                log.error("a defect ended the connection to the broker; the worker connects again", exc_info=error)
        end = now + self._pause_seconds
        while time.monotonic() < end:
            maybe_shutdown()
            time.sleep(_SLICE_SECONDS)
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        self._failed_at = time.monotonic()


def _is_foreign_message(error: Exception) -> bool:
    """True if kombu could not read what it took from a queue: text that is no JSON, or no message of Celery's form."""
    functions = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return "_brpop_read" in functions and "on_task_received" not in functions and not is_of_broker(error)
