"""Celery's consumer, which no error of the broker ends."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer

from models.queue.broker_errors import fault_of, is_of_broker

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0  # before it connects again: a replica accepts connections and refuses what follows
_REPEAT_SECONDS = 60.0  # before a fault that goes on is logged again


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
        # `start` of the base class catches these (broker_channel_error_retry).
        self.channel_errors = (Exception,)
        self._latest_fault = ""
        self._logged_at = 0.0

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        self._log_and_pause(exc)
        # Not the base class's: it only logs.

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        self._log_and_pause(exc)

    def _log_and_pause(self, error: Exception) -> None:
        now = time.monotonic()
        if not is_of_broker(error):
            log.error("a defect ended the connection to the broker; the worker connects again", exc_info=error)
        else:
            fault = fault_of(error).text
            if fault != self._latest_fault or now > self._logged_at + _REPEAT_SECONDS:
                log.warning("%s; the worker connects again", fault)
                self._latest_fault, self._logged_at = fault, now
        time.sleep(_PAUSE_SECONDS)
