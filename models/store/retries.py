"""Retry requests to an S3 server that failed for a transient reason, with growing, jittered pauses.

One policy for both clients of the store: neither SDK's own retries are used. Retrying is safe because every request of
the store may arrive twice: a name is always written with the same bytes, and a second multipart upload only leaves
unnamed parts behind.
"""

from __future__ import annotations

from typing import Any

import urllib3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from tenacity import RetryCallState, RetryError, Retrying
from tenacity.stop import stop_after_delay, stop_any, stop_base
from tenacity.wait import wait_random_exponential
from urllib3.exceptions import NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as UrllibTimeout

from models.outbound import time_limit
from models.outbound.limited_answers import LimitedPool, OutOfTime

# 429 and 503 ask for a pause; 500, 502 and 504 are what servers and proxies answer while a part of them restarts.
_TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
_TRANSIENT_ERRORS: tuple[type[BotoCoreError] | type[urllib3.exceptions.HTTPError], ...] = (
    NewConnectionError,
    ProtocolError,
    UrllibTimeout,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
_WAIT = wait_random_exponential(multiplier=0.2, max=5)  # seconds; jitter keeps a fleet of workers from retrying at once


class _StopBeforeTheLimit(stop_base):
    """Stops if the pause before the next try would last longer than the work may."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time_limit.seconds_left() <= retry_state.upcoming_sleep


def retrying(patience: float) -> Retrying:
    """Return the policy: call it with a function and its arguments.

    The last error is raised as it came.

    Args:
        patience: a failure later than so many seconds after the first try is final; 0 tries once. The limit of the
            work that the request belongs to counts, too.
    """
    return Retrying(
        stop=stop_any(stop_after_delay(patience), _StopBeforeTheLimit()),
        wait=_WAIT,
        retry=_is_transient,
        reraise=True,
    )


class RetryingPool(LimitedPool):
    """Connections for the minio SDK that limit answers and retry. Its own retries know neither.

    Args:
        patience: as for `retrying`.
        timeout: seconds to connect, and seconds to wait for more of an answer.
        connections: that stay open for the next requests.
    """

    def __init__(self, *, patience: float, timeout: tuple[float, float], connections: int = 16) -> None:
        connect, read = timeout
        super().__init__(maxsize=connections, retries=False, timeout=urllib3.Timeout(connect=connect, read=read))
        self._retrying = retrying(patience)

    def urlopen(  # type: ignore[override]  # with the options of `LimitedPool.urlopen` in one
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request as `LimitedPool.urlopen` does, and retry it within the patience of this pool."""
        try:
            return self._retrying(super().urlopen, method, url, redirect, **kw)
        except RetryError as error:
            # The last answer failed too. The SDK explains it, as if it had been the only one.
            answer: urllib3.BaseHTTPResponse = error.last_attempt.result()
            return answer


def _is_transient(state: RetryCallState) -> bool:
    outcome = state.outcome
    assert outcome is not None, "tenacity calls this only after a try"
    error = outcome.exception()
    # The pool under minio returns a failed answer, botocore raises it.
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] in _TRANSIENT_STATUSES
    if error is not None:
        return isinstance(error, _TRANSIENT_ERRORS) and not isinstance(error, OutOfTime)
    # An answer that is tried again is dropped unread, which closes its connection: the next try opens another one, and
    # may reach another server behind a load balancer.
    answer = outcome.result()
    return isinstance(answer, urllib3.BaseHTTPResponse) and answer.status in _TRANSIENT_STATUSES
