"""One limit for all that a piece of work asks of servers outside: names, connections, answers and retries together.

A limit for each answer is not enough: a submit lists pages, reads a file and tries again, and its caller waits for all
of that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# A context variable, because neither SDK passes a deadline on. A thread that the work starts must get its context.
_deadline: ContextVar[float] = ContextVar("outbound_deadline", default=math.inf)  # monotonic


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let the calls of servers in the block end at `deadline`, in seconds of the monotonic clock, or before."""
    token = _deadline.set(min(deadline, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let the calls of servers in the block take `seconds` in all, or less if a block around it says so."""
    with until(time.monotonic() + seconds):
        yield


def deadline() -> float:
    """Return the deadline of the work that runs now, by the monotonic clock; infinity if it has none."""
    return _deadline.get()


def seconds_left() -> float:
    """Return the seconds until the deadline; not above 0 if it has passed."""
    return _deadline.get() - time.monotonic()
