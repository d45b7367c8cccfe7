"""Signals that whoever started the process ignores stay ignored, but for SIGTERM."""

from __future__ import annotations

import signal

from models.stop_signals import STOP_SIGNALS, handle_stop_signals


def test_ignored_signals_stay_ignored_but_for_sigterm() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    try:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        handle_stop_signals(signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)
