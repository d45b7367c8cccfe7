"""End the work for a request when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response

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
