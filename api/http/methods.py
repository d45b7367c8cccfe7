"""The HTTP methods of a path: HEAD for every GET, and the list for OPTIONS and for a 405."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def allowed_methods(scope: Scope) -> list[str]:
    """The methods that the path of this request has, OPTIONS included; an empty list if there is no such path."""
    methods = []
    for method in _METHODS:
        probe = {**scope, "method": method}
        # Over all routes: each method of a path is a route of its own.
        if any(route.matches(probe)[0] is Match.FULL for route in scope["app"].router.routes):
            methods.append(method)
    if "GET" in methods and "HEAD" not in methods:
        methods.append("HEAD")
    return sorted([*methods, "OPTIONS"]) if methods else []


class _HeadAnsweredError(OSError):
    """The headers are sent, which is all that HEAD wants: the route need not go on."""


class HeadAsGet:
    """ASGI middleware that answers HEAD as GET without the body. RFC 9110 demands HEAD of every server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        routes = scope["app"].router.routes
        # Routes of the registry have a HEAD of their own.
        if any(route.matches(scope)[0] is Match.FULL for route in routes):
            return await self._app(scope, receive, send)
        is_answered = False

        async def send_headers(message: Message) -> None:
            nonlocal is_answered
            if is_answered:
                # A followed log would go on for as long as its build.
                raise _HeadAnsweredError
            await send(message)
            if message["type"] == "http.response.start":
                is_answered = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        try:
            await self._app({**scope, "method": "GET"}, receive, send_headers)
        except (_HeadAnsweredError, ClientDisconnect):
            if not is_answered:
                raise
        return None
