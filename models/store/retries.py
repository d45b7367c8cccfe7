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
from tenacity import RetryCallState, Retrying, retry_if_exception, retry_if_result
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_random_exponential
from urllib3.exceptions import NewConnectionError, ProtocolError
from urllib3.exceptions import TimeoutError as UrllibTimeout

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


def retry_calls(patience: float) -> Retrying:
    """Return the policy for calls of botocore, which report every failure as an exception.

    Args:
        patience: seconds after which the last failure is raised; 0 tries once.
    """
    return Retrying(stop=stop_after_delay(patience), wait=_WAIT, retry=retry_if_exception(_is_transient), reraise=True)


class RetryingPool(urllib3.PoolManager):
    """Connections for the minio SDK that retry; its own retries know neither a time limit nor a reason.

    Args:
        patience: seconds after which the last failure is returned or raised; 0 tries once.
        timeout: seconds to connect, and seconds to wait for more of an answer.
    """

    def __init__(self, *, patience: float, timeout: tuple[float, float]) -> None:
        connect, read = timeout
        super().__init__(maxsize=16, retries=False, timeout=urllib3.Timeout(connect=connect, read=read))
        self._retrying = Retrying(
            stop=stop_after_delay(patience),
            wait=_WAIT,
            retry=retry_if_exception(_is_transient) | retry_if_result(_is_transient_response),
            before_sleep=_release_connection,
            retry_error_callback=_last_outcome,
        )

    def urlopen(  # type: ignore[override]  # PoolManager's own signature, which differs from its base's
        self, method: str, url: str, redirect: bool = True, **kw: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request as `PoolManager.urlopen` does, and retry it within the patience of this pool."""
        return self._retrying(super().urlopen, method, url, redirect, **kw)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ClientError):
        return error.response["ResponseMetadata"]["HTTPStatusCode"] in _TRANSIENT_STATUSES
    return isinstance(error, _TRANSIENT_ERRORS)


def _is_transient_response(response: urllib3.BaseHTTPResponse) -> bool:
    return response.status in _TRANSIENT_STATUSES


def _release_connection(state: RetryCallState) -> None:
    # The failed answer is never read; without this its connection would not return to the pool.
    if state.outcome is not None and not state.outcome.failed:
        state.outcome.result().drain_conn()


def _last_outcome(state: RetryCallState) -> Any:
    """Return the last response, or raise the last error, so that the SDK handles it as if it had been the only one."""
    assert state.outcome is not None, "tenacity calls this only after a try"
    return state.outcome.result()
