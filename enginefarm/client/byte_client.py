"""Bytes at line rate: what `connection` is for questions, this is for files.

httpx spends several times the processor on a byte, which a node that loads a model has no use for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError
from urllib3.exceptions import TimeoutError as TimedOut

from enginefarm.client.connection import CONNECT_SECONDS
from enginefarm.client.error_mapping import error_of
from enginefarm.contract.errors import FarmError
from enginefarm.version import __version__

_CHUNK = 1 << 16  # bytes read at a time, at most: memory for more is asked of the system each time, and costs more
_CONNECTIONS = 64
_REDIRECTS = 5
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Answer:
    """A success, or 416; the body is still to come."""

    status: int
    headers: Mapping[str, str]  # whatever their case
    chunks: Iterator[bytes]  # as they come: what waited to fill a larger piece would be lost with the line


class ByteClient:
    """A pool of connections to a farm and its stores. Safe to share between threads."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url, self._origin, self._api_key = url, _origin(url), api_key
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=min(timeout, CONNECT_SECONDS), read=timeout),
            "retries": urllib3.Retry(None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS),
            "maxsize": _CONNECTIONS,
            "headers": {"User-Agent": f"enginefarm/{__version__}"},
        }
        self._direct = urllib3.PoolManager(**options)
        self._proxied = {
            scheme: urllib3.ProxyManager(proxy, **options)
            for scheme, proxy in getproxies().items()
            if scheme in {"http", "https"}
        }

    def close(self) -> None:
        for pool in (self._direct, *self._proxied.values()):
            pool.clear()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """GET `url`, absolute or of the farm, following redirects; the body is read inside the `with`.

        Raises:
            FarmError: nobody answered, or the connection broke, also while the body is read.
            EnginefarmError: the refusal that the answer tells of; only 416 is an answer.
        """
        target = urljoin(self._url + "/", url)
        try:
            response = self._request(target, dict(headers))
            try:
                self._accept(target, response)
                yield Answer(response.status, response.headers, _chunks(response))
            finally:
                # Half-read, its connection is of no use; read to the end, it went back to the pool by itself.
                response.close()
        except HTTPError as error:
            raise FarmError(self._explained(target, error)) from error

    def _request(self, target: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        if self._api_key and _origin(target) == self._origin:
            headers["Authorization"] = f"Bearer {self._api_key}"  # urllib3 drops it where a redirect leads elsewhere
        return self._pool(target).request("GET", target, headers=headers, preload_content=False)

    def _pool(self, target: str) -> urllib3.PoolManager:
        """A proxy named in the environment is for the world outside; this machine is not outside."""
        parts = urlsplit(target)
        host = parts.hostname or ""
        if host in _LOOPBACK or proxy_bypass(host):
            return self._direct
        return self._proxied.get(parts.scheme, self._direct)

    def _accept(self, target: str, response: urllib3.BaseHTTPResponse) -> None:
        if response.status < httpx.codes.BAD_REQUEST or response.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        body = response.read(1 << 20)
        # urllib3 says where it was led to, or, if it was led nowhere, the path alone.
        request = httpx.Request("GET", urljoin(target, response.url or ""))
        raise error_of(httpx.Response(response.status, content=body, request=request))

    def _explained(self, target: str, error: HTTPError) -> str:
        """The origin alone: the rest of a link may be a signature."""
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        ours = _origin(target) == self._origin
        where = f"the farm at {self._url}, or the store that it named" if ours else f"the store at {_shown(target)}"
        match cause:
            case NewConnectionError() | ConnectTimeoutError():
                return f"cannot reach {where}. ENGINEFARM_URL says where the farm is"
            case TimedOut():
                return f"{where} did not answer in time"
            case _:
                return f"the connection to {where} broke ({type(cause).__name__})"


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while chunk := response.read1(_CHUNK, decode_content=False):
        yield chunk


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
