"""End a worker by SIGTERM, SIGINT and SIGHUP: all three stop it in order, and the running stage is handed back."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from celery.apps.worker import Worker
from celery.worker import state

from models.stop_signals import STOP_SIGNALS, handle_stop_signals


def stop_before_work() -> None:
    """Until a `StoppableWorker` starts, let a signal raise SystemExit in the main thread."""
    handle_stop_signals(_exit_once)


def _exit_once(_number: int, _frame: FrameType | None) -> None:
    # A second signal must not interrupt the clean-up that the first one began.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


class StoppableWorker(Worker):  # type: ignore[misc]  # Celery has no types
    """Celery's worker with the farm's signal handlers; `leaving` is set by the first signal, others change nothing.

    Celery's own would restart the process on SIGHUP by a command that does not start this program, cancel the stage on
    a second SIGINT, and follow the variable REMAP_SIGTERM of other programs.
    """

    def __init__(self, leaving: threading.Event, **options: Any) -> None:
        self._leaving = leaving
        self._is_stopping = False
        super().__init__(**options)

    def install_platform_tweaks(self, _worker: Worker) -> None:
        """Called by Celery when the worker starts."""
        handle_stop_signals(self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # The flag first: a second signal within `set` would wait for its lock for ever.
        if not self._is_stopping:
            self._is_stopping = True
            self._leaving.set()
            state.should_stop = 0  # the exit status; Celery's loop asks for it at every turn
