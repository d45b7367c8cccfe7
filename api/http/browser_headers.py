"""Tell browsers not to guess content types, not to frame the farm's pages, and not to load answers into other sites.

The API shows text that builds wrote, such as logs. A browser that took one for HTML would run its scripts with the
origin of the farm's own pages.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class BrowserHeaders:
    """ASGI middleware that adds these headers to every answer but a 500; one that a route sets itself stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(item for item in _HEADERS if item[0] not in names)]
            await send(message)

        return await self._app(scope, receive, send_with_headers)
