"""Retries of calls to a farm: again and again for as long as the caller's patience lasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tenacity import (
    AttemptManager,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_exponential,
    wait_random_exponential,
)

from enginefarm.contract.errors import FarmError

_FIRST_PAUSE = 0.2  # seconds: a restart of the farm behind a load balancer is hardly noticed
_LONGEST_PAUSE = 5.0  # seconds: a farm that comes back is found soon
# Half of each pause is random. Many nodes lose the same farm at once, and must not come back at once.
_PAUSES = wait_exponential(multiplier=_FIRST_PAUSE / 2, max=_LONGEST_PAUSE / 2) + wait_random_exponential(
    multiplier=_FIRST_PAUSE / 2, max=_LONGEST_PAUSE / 2
)

_log = logging.getLogger(__name__)


def retrying(patience: float, *, sleep: Callable[[float], None] = time.sleep) -> Retrying:
    """Attempts that are repeated after a FarmError until `patience` seconds of failures; then it is raised.

    Other errors are raised at once: they would come again.
    """
    strategy = _Patience(patience)
    return Retrying(
        retry=retry_if_exception_type(FarmError),
        wait=strategy.pause,
        stop=strategy.is_over,
        sleep=sleep,
        reraise=True,
    )


def note_progress(attempt: AttemptManager) -> None:
    """Something worked: a failure that follows counts as the first one."""
    attempt.retry_state.attempt_number = 1


class _Patience:
    """tenacity's own limits count from the first try, and a log may be followed for an hour before anything fails.

    This one counts from the first failure in a row.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = 0.0  # monotonic

    def pause(self, state: RetryCallState) -> float:
        """Seconds until the next try. tenacity calls this after each failure, before `is_over`."""
        now = time.monotonic()
        if state.attempt_number == 1:
            self._deadline = now + self._seconds
            assert state.outcome is not None, "called after an attempt"
            _log.warning("%s; trying again for %g s", state.outcome.exception(), self._seconds)
        # The last try is at the deadline.
        return max(0.0, min(_PAUSES(state), self._deadline - now))

    def is_over(self, state: RetryCallState) -> bool:
        return time.monotonic() >= self._deadline
