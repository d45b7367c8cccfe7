"""Celery's pool of threads, which wakes the worker's event loop when a task has ended.

Without a prefetch a busy worker asks Redis for nothing, and Celery does not tell the loop when the worker is idle
again: it would notice at its next turn only.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from celery.concurrency.thread import ApplyResult, TaskPool
from kombu.asynchronous import get_event_loop


class WakingPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """See the module."""

    def on_apply(self, *args: Any, **options: Any) -> ApplyResult:
        result = super().on_apply(*args, **options)
        result.f.add_done_callback(_wake)
        return result


def _wake(_: Future[Any]) -> None:
    loop: Any = get_event_loop()
    if loop is not None:
        # From another thread than its own, a call makes the loop turn at once.
        loop.call_soon(lambda: None)
