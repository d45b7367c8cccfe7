"""The HTTP client of the hub's library: limits on every answer, and no way to addresses inside the operator's network.

`huggingface_hub` sends all of its requests through one client of the process. That client reads no limits by itself:
it decompresses what comes, follows redirects to any address, and waits as long as bytes arrive. A hub is a server of
somebody else, so this module puts a client of its own in that place:

- it asks for uncompressed answers and refuses compressed ones;
- it reads at most as many bytes and as many seconds as `HubEndpoint.answers` allows;
- it connects to the configured hub and to public addresses, and to the address that it checked, so that a name that
  resolves to another address a moment later (DNS rebinding) changes nothing;
- it sends the token to the hub's own host only.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2
from httpcore2._backends.sync import SyncBackend
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import hf_request_event_hook

from models.outbound import time_limit
from models.outbound.uninterruptible import NAME_SECONDS, resolve

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_ERROR_BYTES = 1 << 16  # that are read of an answer that is no success; the library looks for a reason in it
_MAX_REDIRECTS = 5
PUBLIC_HUB = constants.ENDPOINT
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# RFC 1918 and RFC 4193: a mirror on such an address may send its callers to a store on such an address.
_SITE_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
# What `is_global` of this Python takes for public addresses. Services of clouds: Oracle's metadata, Azure's host.
_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24", "168.63.129.16/32",
        # IPv6: site-local, and what stands for IPv4 (RFC 4291 compatible, RFC 2765 translated, RFC 8215 local NAT64).
        "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10",
    )
)  # fmt: skip


class AnswerRefused(httpx2.TransportError):
    """The hub's answer is too long, too slow, compressed, or leads to an address that the farm does not call.

    The text is the predicate of an error text and repeats nothing of the answer. The library does not try again after
    an error of this class.
    """


class AnswerTooSlow(AnswerRefused):
    """The hub did not complete its answer in time; a later try may succeed."""


class AnswerTooLong(AnswerRefused):
    """The hub sent more bytes than the answer may have; of a file, more than the hub lists."""


@dataclass(frozen=True)
class _Limits:
    endpoint: HubEndpoint
    max_bytes: int
    seconds: float
    deadline: float  # monotonic

    def remaining(self, timeout: float | None) -> float:
        """Return `timeout`, or the seconds until the deadline if these are fewer.

        Raises:
            AnswerTooSlow: the deadline has passed.
        """
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            if not self.seconds:
                raise AnswerTooSlow("could not be asked in time, because earlier requests wait for it")
            raise AnswerTooSlow(f"did not complete its answer within {self.seconds:.0f} s")
        return remaining if timeout is None else min(timeout, remaining)


# A context variable, because the library offers no way to hand something to the client with a call.
_limits: ContextVar[_Limits] = ContextVar("hub_limits")


class HubEndpoint:
    """A hub, and which other addresses it may send the farm to.

    Args:
        url: the hub's URL, as the operator configured it. Its address is always allowed.
        redirect_networks: networks that are not public and that redirects may lead to all the same.
    """

    def __init__(self, url: str, redirect_networks: Sequence[Network] = ()) -> None:
        self.url = url.rstrip("/")
        self._scheme, self._host, self._port = _origin(self.url)
        self._redirect_networks = tuple(redirect_networks)

    @contextmanager
    def answers(self, *, max_bytes: int, seconds: float) -> Iterator[None]:
        """Let the hub's library call this hub in the block: `max_bytes` for one answer, `seconds` for all together.

        The limit of the work around the block counts, too.
        """
        seconds = max(0.0, min(seconds, time_limit.seconds_left()))
        token = _limits.set(_Limits(self, max_bytes, seconds, time.monotonic() + seconds))
        try:
            yield
        finally:
            _limits.reset(token)

    def may_have_token(self, url: str) -> bool:
        """Return True for the hub's own origin, and for https on the host of a hub that is configured with http."""
        scheme, host, port = _origin(url)
        if host != self._host:
            return False
        return (scheme, port) == (self._scheme, self._port) or (self._scheme == "http" and scheme == "https")

    def addresses_of(self, host: str, port: int) -> list[str]:
        """Resolve `host`; return the addresses that the farm may connect to.

        Raises:
            AnswerRefused: all of its addresses are inside a network that is not public.
        """
        addresses = _resolve(host, port)
        if (host, port) == (self._host, self._port):
            return addresses
        allowed = [address for address in addresses if self._is_allowed(ipaddress.ip_address(address))]
        if not allowed:
            raise AnswerRefused(
                f"leads to {addresses[0]}, which is not a public address; ENGINEFARM_HF_REDIRECT_NETWORKS allows the "
                "networks that a hub may lead to"
            )
        return allowed

    def _is_allowed(self, address: Address) -> bool:
        inner = _embedded(address)
        is_public = inner.is_global and not inner.is_multicast and not _is_in(inner, _NOT_PUBLIC)
        if is_public or _is_in(inner, self._redirect_networks):
            return True
        if not _is_in(inner, _SITE_NETWORKS):
            return False  # loopback and link-local, where the services of the machine and of the cloud are
        own_addresses = map(ipaddress.ip_address, _resolve(self._host, self._port))
        return any(_is_in(own, _SITE_NETWORKS) for own in own_addresses)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _resolve(host: str, port: int) -> list[str]:
    limits = _limits.get(None)
    seconds = NAME_SECONDS
    if limits is not None:
        seconds = limits.remaining(NAME_SECONDS)
    try:
        addresses = resolve(host, port, seconds)
    except TimeoutError as error:
        raise httpcore2.ConnectTimeout("no name server answered in time") from error
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"cannot resolve the name: {type(error).__name__}") from error
    # Without the zone of a link-local address (fe80::1%eth0), which the connection gets from its own look-up.
    return [address.partition("%")[0] for address in addresses]


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


class _Backend(SyncBackend):
    """Connects to checked addresses only, and ends every read at the deadline of the call that it belongs to."""

    def __init__(self, *, is_proxy: bool) -> None:
        self._is_proxy = is_proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        limits = _limits.get()
        end = time.monotonic() + limits.remaining(timeout)
        if self._is_proxy:
            addresses = _resolve(host.strip("[]"), port)  # whichever: the proxy is the operator's choice
        else:
            addresses = limits.endpoint.addresses_of(host.strip("[]").lower(), port)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for number, address in enumerate(addresses):
            # An address that does not answer leaves time for those behind it.
            share = (end - time.monotonic()) / (len(addresses) - number)
            if share <= 0:
                break
            try:
                # The address, not the name: a second look-up could return another address.
                stream = super().connect_tcp(address, port, limits.remaining(share), local_address, socket_options)
                return _Stream(stream)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads, writes and handshakes end at the deadline of the call that uses it now."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._stream.read(max_bytes, _limits.get().remaining(timeout))
        except httpcore2.ReadTimeout:
            _limits.get().remaining(None)  # says so if the deadline, not the pause between two reads, ended it
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _limits.get().remaining(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _limits.get().remaining(timeout)))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Transport(httpx2.BaseTransport):
    """Sends requests directly, or through the proxy of the environment, and limits what comes back."""

    def __init__(self) -> None:
        self._proxies = getproxies()
        # By proxy, opened on first use: a proxy that cannot be used matters only to requests that need it.
        self._transports: dict[str | None, httpx2.HTTPTransport] = {None: _open_transport(None)}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        limits = _limits.get()
        request.headers["Accept-Encoding"] = "identity"
        if not limits.endpoint.may_have_token(str(request.url)):
            for secret in ("Authorization", "Cookie"):
                request.headers.pop(secret, None)
        transport = self._transport_for(request.url)
        if transport is not self._transports[None]:
            # The proxy resolves the name. An address that is written out is refused here as without a proxy; what
            # names mean inside the proxy's network is the proxy's own business.
            _refuse_literal(limits.endpoint, request.url)
        response = transport.handle_request(request)
        response.headers.pop("X-HF-Warning", None)  # the library prints the text of this header
        assert isinstance(response.stream, httpx2.SyncByteStream)
        if request.method == "HEAD":
            return response
        is_success = response.is_success
        is_compressed = response.headers.pop("Content-Encoding", "identity").lower() != "identity"
        length = response.headers.get("Content-Length", "")
        if is_success and (is_compressed or (length.isdecimal() and int(length) > limits.max_bytes)):
            response.close()
            if is_compressed:
                raise AnswerRefused("compressed its answer, although it was asked not to")
            raise _too_long(limits)
        # The text of an error is cut: the status says what failed, so its length is not a failure of its own.
        longest_error = 0 if is_compressed else _MAX_ERROR_BYTES
        response.stream = _LimitedBody(response.stream, limits, longest_error=None if is_success else longest_error)
        return response

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()

    def _transport_for(self, url: httpx2.URL) -> httpx2.HTTPTransport:
        if _needs_no_proxy(url.host, url.port):
            return self._transports[None]
        scheme = url.scheme if self._proxies.get(url.scheme) else "all"
        proxy = self._proxies.get(scheme)
        if not proxy:
            return self._transports[None]
        with self._lock:
            if proxy not in self._transports:
                try:
                    # HTTP_PROXY=proxy:3128 is common, and other programs accept it.
                    self._transports[proxy] = _open_transport(proxy if "://" in proxy else f"http://{proxy}")
                except (ImportError, ValueError, httpx2.InvalidURL) as error:
                    # The text does not show the value, which may hold a password.
                    raise AnswerRefused(
                        f"would be called through {scheme.upper()}_PROXY, which names no http:// or https:// proxy; "
                        "set it to one, or name the hub in NO_PROXY"
                    ) from error
            return self._transports[proxy]


def _needs_no_proxy(host: str, port: int | None) -> bool:
    """Return True if NO_PROXY names the host, or a network that its address is in."""
    if proxy_bypass(host) or proxy_bypass(f"{host}:{port}"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    for entry in getproxies().get("no", "").split(","):
        with suppress(ValueError):  # a name
            if _is_in(address, [ipaddress.ip_network(re.sub(r"[\[\] ]", "", entry), strict=False)]):
                return True
    return False


class _LimitedBody(httpx2.SyncByteStream):
    """The body of an answer; of an error only the first `longest_error` bytes, and some more."""

    def __init__(self, body: httpx2.SyncByteStream, limits: _Limits, *, longest_error: int | None) -> None:
        self._body = body
        self._limits = limits
        self._longest_error = longest_error

    def __iter__(self) -> Iterator[bytes]:
        length = 0
        for chunk in self._body:
            if self._longest_error is not None and length >= self._longest_error:
                return
            length += len(chunk)
            if self._longest_error is None and length > self._limits.max_bytes:
                raise _too_long(self._limits)
            yield chunk

    def close(self) -> None:
        self._body.close()


def _too_long(limits: _Limits) -> AnswerTooLong:
    return AnswerTooLong(f"sent more than the {limits.max_bytes} bytes that this answer may have")


def _refuse_literal(endpoint: HubEndpoint, url: httpx2.URL) -> None:
    host = url.host.strip("[]").rstrip(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # A proxy's C library also reads 2130706433, 0x7f.1 and 127.1.
        try:
            host = socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return
    endpoint.addresses_of(host, url.port or _DEFAULT_PORTS.get(url.scheme, 0))


def _open_transport(proxy: str | None) -> httpx2.HTTPTransport:
    transport = httpx2.HTTPTransport(proxy=proxy)
    # httpx2 has no argument for it, and its pool has. A new release that moves the attribute must not pass unnoticed.
    if not hasattr(transport._pool, "_network_backend"):
        raise RuntimeError("httpx2 keeps its network backend elsewhere: the hub's answers would have no limits")
    transport._pool._network_backend = _Backend(is_proxy=proxy is not None)
    return transport


def _open_client() -> httpx2.Client:
    return httpx2.Client(
        transport=_Transport(),
        event_hooks={"request": [hf_request_event_hook]},  # as the library's own client has it
        follow_redirects=True,
        max_redirects=_MAX_REDIRECTS,
        timeout=None,  # every call of the library states its own
    )


set_client_factory(_open_client)
# Otherwise the first request of a process also asks the public hub what to call its user agent, which takes seconds
# where a firewall drops it.
constants.HF_HUB_DISABLE_TELEMETRY = True
# Xet's own program would fetch from the addresses that the hub names, without any of these limits.
constants.HF_HUB_DISABLE_XET = True
