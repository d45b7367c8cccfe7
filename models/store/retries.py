"""Trying again: the one place where a request to an S3 server is repeated."""

from __future__ import annotations

from typing import Any

import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_random_exponential
from urllib3.exceptions import NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as TimedOut

_BUSY = {429, 500, 502, 503, 504}


class PatientPool(urllib3.PoolManager):
    """Connections that repeat what failed for a passing reason, with growing, jittered pauses.

    Repeating is safe because every request the store makes may arrive twice: what is written under a name
    is always the same bytes, and a second multipart upload only leaves parts without a name behind.

    Args:
        patience: seconds after which a failure is believed; 0 tries once.
        timeout: seconds to connect, and to wait for more of an answer.
    """

    def __init__(self, *, patience: float, timeout: tuple[float, float]) -> None:
        connect, read = timeout
        super().__init__(maxsize=16, retries=False, timeout=urllib3.Timeout(connect=connect, read=read))
        self._retrying = Retrying(
            stop=stop_after_delay(patience),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type((NewConnectionError, ProtocolError, TimedOut)) | retry_if_result(_busy),
            before_sleep=_give_back,
            retry_error_callback=_last_outcome,
        )

    def urlopen(  # type: ignore[override]  # PoolManager's own signature, which differs from its base's
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        return self._retrying(super().urlopen, method, url, redirect, **kw)


def _busy(response: urllib3.BaseHTTPResponse) -> bool:
    return response.status in _BUSY


def _give_back(state: RetryCallState) -> None:
    """An answer that nobody will read must not hold its connection."""
    if state.outcome is not None and not state.outcome.failed:
        state.outcome.result().drain_conn()


def _last_outcome(state: RetryCallState) -> Any:
    """What the last try came to, for the caller to deal with as if it had been the only one."""
    assert state.outcome is not None, "only called after a try"
    return state.outcome.result()
