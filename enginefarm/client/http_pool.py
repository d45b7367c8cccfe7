"""Pools of HTTP connections: proxies, timeouts and User-Agent, the same for every request."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping

import urllib3
from urllib3.util import parse_url

from enginefarm.client.certificates import trusted_certificates
from enginefarm.client.proxies import Proxy, proxy_for
from enginefarm.version import __version__

CONNECT_SECONDS = 10.0
_CONNECTIONS = 64  # kept open to one server: more than any sensible `--connections` of a pull
# A NAT or a load balancer drops an idle connection without a word, and a request on it would wait for the whole
# timeout. Most servers, uvicorn among them, close theirs after 5 s.
_IDLE_SECONDS = 4.0


class HttpPool:
    """Connections to any number of servers. Safe to share between threads.

    `timeout` is in seconds, for one read or write. Nothing is retried and no redirect is followed here.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._managers: dict[tuple[str | None, Proxy | None], urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        self._used_at = time.monotonic()

    def close(self) -> None:
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def mark_used(self) -> None:
        """A response was read: its connection was not idle since its request, which may have been a long poll."""
        with self._lock:
            self._used_at = time.monotonic()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
        wait_seconds: float = 0,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and return the response, its body still unread. `wait_seconds` adds to the read timeout.

        Raises:
            urllib3.exceptions.HTTPError: the server could not be reached or did not answer.
            InvalidRequest: the environment names no proxy that can be used, or certificates that cannot be read.
        """
        # urllib3 applies the connect timeout to writing the request, too. A farm that stores an upload may stop
        # reading for longer than a connection may take.
        streams_body = body is not None and not isinstance(body, bytes)
        connect = self._timeout if streams_body else min(self._timeout, CONNECT_SECONDS)
        return self._manager(url).request(
            method,
            url,
            headers=dict(headers),
            body=body,
            timeout=urllib3.Timeout(connect=connect, read=self._timeout + wait_seconds),
            retries=False,
            redirect=False,
            preload_content=False,
        )

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_for(url, os.environ)
        scheme = parse_url(url).scheme
        with self._lock:
            idle_since, self._used_at = self._used_at, time.monotonic()
            if self._used_at - idle_since > _IDLE_SECONDS:
                for manager in self._managers.values():
                    manager.clear()
            # Made when the first URL of its kind is seen: loading certificates takes longer than a call to an http URL.
            if (scheme, proxy) not in self._managers:
                self._managers[scheme, proxy] = _new_manager(scheme, proxy)
            return self._managers[scheme, proxy]


def _new_manager(scheme: str | None, proxy: Proxy | None) -> urllib3.PoolManager:
    tls = trusted_certificates() if scheme == "https" else None
    if proxy is None:
        return urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=tls)
    headers = {}
    if proxy.authorization:
        headers["Proxy-Authorization"] = proxy.authorization
    return urllib3.ProxyManager(
        proxy.url,
        proxy_headers=headers,
        proxy_ssl_context=trusted_certificates() if proxy.url.startswith("https:") else None,
        maxsize=_CONNECTIONS,
        ssl_context=tls,
    )


def default_headers() -> dict[str, str]:
    return {"User-Agent": f"enginefarm/{__version__}", "Accept": "*/*"}
