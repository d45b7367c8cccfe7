"""Pools of HTTP connections: proxies, trusted certificates, timeouts and User-Agent, the same for every request."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from urllib3.util import make_headers, parse_url

from enginefarm.contract.errors import InvalidRequest
from enginefarm.version import __version__

CONNECT_SECONDS = 10.0
_CONNECTIONS = 64  # kept open to one server: more than any sensible `--connections` of a pull
# A NAT or a load balancer drops an idle connection without a word, and a request on it would wait for the whole
# timeout. Most servers, uvicorn among them, close theirs after 5 s.
_IDLE_SECONDS = 4.0
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


class HttpPool:
    """Connections to any number of servers. Safe to share between threads.

    `timeout` is in seconds, for one read or write. Nothing is retried and no redirect is followed here.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._proxies = getproxies()
        self._managers: dict[tuple[str | None, str | None], urllib3.PoolManager] = {}
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
            InvalidRequest: the environment names a proxy of an unsupported kind, or certificates that cannot be read.
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
        """The pool for `url`, through the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names for it."""
        parsed = parse_url(url)
        scheme, host = parsed.scheme, parsed.host or ""
        proxy: str | None = None
        # A proxy would take a loopback address for its own. NO_PROXY may list a host with its port.
        if host not in _LOOPBACK and not proxy_bypass(host) and not proxy_bypass(f"{host}:{parsed.port}"):
            proxy = self._proxies.get(scheme or "") or self._proxies.get("all") or None
        if proxy and "://" not in proxy:
            # HTTP_PROXY=proxy:3128 is common, and other programs accept it.
            proxy = f"http://{proxy}"
        with self._lock:
            idle_since, self._used_at = self._used_at, time.monotonic()
            if self._used_at - idle_since > _IDLE_SECONDS:
                for manager in self._managers.values():
                    manager.clear()
            # Made when the first URL of its kind is seen: loading certificates takes longer than a call to an http URL.
            if (scheme, proxy) not in self._managers:
                self._managers[scheme, proxy] = _new_manager(scheme, proxy)
            return self._managers[scheme, proxy]


def _new_manager(scheme: str | None, proxy: str | None) -> urllib3.PoolManager:
    tls = _trust() if scheme == "https" else None
    if proxy is None:
        return urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=tls)
    # Python's parser, not urllib3's: user and password are wanted apart, and this URL is the user's own.
    try:
        proxy_url = urlsplit(proxy)
    except ValueError:
        # The text does not repeat the URL, which may hold a password.
        raise InvalidRequest(
            "the environment names a proxy that is no URL: expected http://host:port in HTTP_PROXY, HTTPS_PROXY and "
            "ALL_PROXY, or the farm's host in NO_PROXY"
        ) from None
    if proxy_url.scheme not in {"http", "https"}:
        raise InvalidRequest(
            f"the environment names a proxy of the kind {proxy_url.scheme!r}: expected an http or https URL in "
            "HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or the farm's host in NO_PROXY"
        )
    # urllib3 does not send the user and password of a proxy's URL by itself.
    credentials = None
    if proxy_url.username:
        credentials = f"{unquote(proxy_url.username)}:{unquote(proxy_url.password or '')}"
    return urllib3.ProxyManager(
        proxy,
        proxy_headers=make_headers(proxy_basic_auth=credentials),
        proxy_ssl_context=_trust() if proxy_url.scheme == "https" else None,
        maxsize=_CONNECTIONS,
        ssl_context=tls,
    )


def _trust() -> ssl.SSLContext:
    """Trusts what SSL_CERT_FILE and SSL_CERT_DIR name; without them the system's authorities and certifi's.

    A private authority is in the system's store on many sites, and a slim container has no such store.
    """
    return _tls_context(os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None)


# Loading the system's certificates takes tens of milliseconds, and each pool needs a context.
@cache
def _tls_context(cafile: str | None, capath: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cafile, capath=capath)
    except OSError as error:  # ssl.SSLError is one too
        raise InvalidRequest(
            f"SSL_CERT_FILE={cafile} or SSL_CERT_DIR={capath} holds no certificates ({error}): name a file or folder "
            "of certificates in PEM form, or unset it"
        ) from error
    if cafile is None and capath is None:
        context.load_verify_locations(certifi.where())
    return context


def default_headers() -> dict[str, str]:
    return {"User-Agent": f"enginefarm/{__version__}", "Accept": "*/*"}
