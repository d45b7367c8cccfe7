"""Serve only programs of this machine while the farm is open: no web pages, no proxies, no other names for this host.

A farm without API keys listens on loopback, and that alone does not keep others out. A browser on this machine sends
requests of any web page to 127.0.0.1; a page whose host name suddenly resolves to 127.0.0.1 (DNS rebinding) may read
the answers, too; and a proxy brings requests from everywhere.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.problems import on_farm_error, on_http_exception
from enginefarm.contract.errors import CrossOrigin, EnginefarmError, Misdirected, Proxied

_REMEDY = "make an API key with `python -m api.keys create NAME --scope admin`"
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")
# What proxies, tunnels and content delivery networks add; X-Forwarded-* and X-Original-* are matched by their start.
_OF_PROXIES = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
)
_OF_PROXIES_START = ("x-forwarded", "x-original-")


class LocalRequestsOnly:
    """ASGI middleware. While the farm is open, it refuses what no program of this machine's user would send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # By the last look into the catalogue: this one must not wait for a database, or /healthz would.
        if scope["type"] == "http" and scope["app"].state.control.open_mode.was_open:
            request = Request(scope)
            try:
                require_local(request)
            except EnginefarmError as error:
                return await on_farm_error(request, error)(scope, receive, send)
            except HTTPException as error:
                return await on_http_exception(request, error)(scope, receive, send)
        return await self._app(scope, receive, send)


def require_local(request: Request) -> None:
    """Check that a program of this machine's user sent the request, or a page of the farm's own.

    Raises:
        Proxied: a proxy sent it.
        Misdirected: its Host is not a loopback name or address with the API's port.
        CrossOrigin: a page of another origin sent it.
        HTTPException: 415, its body could be that of a form.
    """
    headers = request.headers
    # Any reverse proxy that its operator did not configure otherwise shows itself by one of these headers, or, as
    # nginx did for twenty years, by HTTP/1.0.
    for name in headers:
        if name in _OF_PROXIES or name.startswith(_OF_PROXIES_START):
            raise Proxied(f"the request has the header {name!r}, so it came through a proxy: {_REMEDY} first")
    if request.scope["http_version"] == "1.0":
        raise Proxied(f"the request is HTTP/1.0, as from a proxy; expected HTTP/1.1: {_REMEDY} first")
    _require_loopback_host(headers, request.scope["server"][1])
    _require_same_origin(headers)
    _require_json(request)


def _require_loopback_host(headers: Headers, port: int) -> None:
    """The defence against DNS rebinding: the attacker's page has the attacker's host name, wherever it resolves to."""
    hosts = headers.getlist("host")
    if len(hosts) == 1:
        match = _HOST.fullmatch(hosts[0])
        if match and is_loopback(match["name"]) and int(match["port"] or 80) == port:
            return
    seen = ", ".join(hosts)[:100]
    raise Misdirected(
        f"the request's Host is {seen!r}; expected '127.0.0.1:{port}', 'localhost:{port}' or '[::1]:{port}', because "
        f"this farm has no API keys and serves its own machine only. Under other names: {_REMEDY} first"
    )


def is_loopback(host: str) -> bool:
    """Whether it is `localhost` or a loopback address, IPv6 with or without brackets. Any other name may resolve to
    anything."""
    try:
        if ":" in host:
            return IPv6Address(host.removeprefix("[").removesuffix("]")).is_loopback
        return host.lower() == "localhost" or IPv4Address(host).is_loopback
    except ValueError:
        return False


def _require_same_origin(headers: Headers) -> None:
    # Every browser sends Origin with POST, PUT and DELETE. It leaves it out of many reads; those have Sec-Fetch-Site,
    # which is `none` if the user typed the address.
    own_origin = f"http://{headers['host']}".lower()
    for origin in headers.getlist("origin"):
        if origin.lower() != own_origin:
            raise CrossOrigin(
                f"a page of {origin[:100]!r} sent the request; a farm without API keys serves only pages of its own "
                f"origin, {own_origin!r}: {_REMEDY} first"
            )
    require_own_page(headers)


def require_own_page(headers: Headers) -> None:
    """Check that no page of another origin sent the request, as far as the browser says; other programs say nothing.

    Raises:
        CrossOrigin
    """
    for site in headers.getlist("sec-fetch-site"):
        if site not in ("same-origin", "none"):
            raise CrossOrigin(
                f"a page of another origin sent the request or links here (Sec-Fetch-Site: {site[:20]!r}); without an "
                "API key in `Authorization: Bearer` the farm serves only its own pages: type the address"
            )


def _require_json(request: Request) -> None:
    """A page may send forms and plain text without a preflight request, and a body without any type, but no JSON."""
    headers = request.headers
    is_blob = request.method == "PUT" and request.scope["path"].startswith("/v1/blobs/")  # PUT is always preflighted
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    types = headers.getlist("content-type")
    if is_blob or not (has_body or types):
        return
    if len(types) != 1 or types[0].partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the body with `Content-Type: application/json`")
