"""Serve the API below the path of its public URL, behind proxies that remove that path and proxies that keep it."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import FastAPI
from starlette.responses import RedirectResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send


class PublicPath:
    """ASGI middleware: routes and the other middlewares see the API's own path, and `root_path` is the public one."""

    def __init__(self, app: ASGIApp, *, public_path: str) -> None:
        self._app = app
        self._public_path = public_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path == self._public_path or path.startswith(f"{self._public_path}/"):
                # The settings allow no public path that begins like a path of the API, so this prefix is the proxy's.
                path = path.removeprefix(self._public_path) or "/"
            scope = {**scope, "path": path, "root_path": self._public_path}
        await self._app(scope, receive, send)


class SlashRedirect:
    """ASGI application for paths without a route: redirect to the route whose path differs by a slash at its end.

    Starlette would redirect to the host that the request names, which is an inner one behind a proxy.
    """

    def __init__(self, app: FastAPI, *, public_url: str) -> None:
        self._router = app.router
        self._public_url = public_url.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        other_path = path.rstrip("/") if path.endswith("/") else f"{path}/"
        probe = {**scope, "path": other_path}
        if scope["type"] != "http" or all(route.matches(probe)[0] is Match.NONE for route in self._router.routes):
            return await self._router.not_found(scope, receive, send)
        # Without a public URL a path is enough: it is right for every client that reached the API directly.
        url = self._public_url + quote(other_path, safe="/:@")
        if scope["query_string"]:
            url += "?" + scope["query_string"].decode("latin-1")
        await RedirectResponse(url)(scope, receive, send)
        return None
