"""The signals that end an API and a worker in order."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def handle_stop_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """Install `handler` for them, except for SIGINT and SIGHUP where whoever started this process ignores them.

    `nohup` ignores SIGHUP, a shell SIGINT for its background jobs.
    """
    for number in STOP_SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
