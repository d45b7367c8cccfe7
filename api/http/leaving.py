"""End the work for a request when its client disconnects, or when this process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from threading import Event
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")


class ClientLeftError(Exception):
    """Nobody reads the answer any more."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; it is cancelled when the client of `request` disconnects. Read the body before.

    Raises:
        ClientLeftError: the client disconnected first.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_until_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _until_disconnected(request: Request) -> None:
    # A request without a body has one empty message before.
    while (await request.receive())["type"] != "http.disconnect":
        pass


def on_client_left(_: Request, error: Exception) -> Response:
    """An answer that nobody gets: 499, as nginx logs it."""
    assert isinstance(error, ClientLeftError)
    return Response(status_code=499)


class QuietCut:
    """ASGI middleware: a request that the server cancels at its end leaves no traceback. Its connection is cut before.

    Args:
        leaving: set once this process ends.
    """

    def __init__(self, app: ASGIApp, *, leaving: Event) -> None:
        self._app = app
        self._leaving = leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._leaving.is_set():
                raise
