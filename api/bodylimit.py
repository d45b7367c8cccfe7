"""Limit request bodies: whose they are, how large, and how slowly they may come. A refusal is a problem document."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import any_caller
from api.http.problems import on_farm_error
from enginefarm.contract.errors import EnginefarmError

MAX_BODY = 1 << 20  # bytes; the largest matrix of specs is far below
# Only the time in which the farm waits for the client counts: a store that is slow to take an upload is not its fault.
SILENT_SECONDS = 30.0  # without a byte
SLOW_SECONDS = 30.0  # of waiting in all, before the rate below counts
MIN_RATE = 16 << 10  # bytes for each second of waiting


class BodyLimit:
    """ASGI middleware that reads no body without an API key, none above MAX_BODY, and none that comes too slowly."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # No route reads the body of a GET, and the server reads only a few KiB that no route reads.
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared != "0" and ("transfer-encoding" in headers or declared):
            # FastAPI reads the body before it asks the dependencies of the route, of which the API key is one.
            request = Request(scope)
            try:
                await any_caller(request)
            except EnginefarmError as error:
                return await on_farm_error(request, error)(scope, receive, send)
        # An uploaded blob may have any size: its route streams it, and stops reading at the declared size.
        is_upload = scope["method"] == "PUT" and scope["path"].startswith("/v1/blobs/")
        body = _Body(receive, None if is_upload else MAX_BODY, declared)
        return await self._app(scope, body.receive, send)


class _Body:
    """The body of one request. Errors are raised inside of the application: its handler answers with a document.

    Args:
        most: bytes; None for no limit.
        declared: the header Content-Length.
    """

    def __init__(self, receive: Receive, most: int | None, declared: str) -> None:
        self._receive = receive
        self._most = most
        self._is_too_large = most is not None and declared.isdecimal() and int(declared) > most
        self._received = 0
        self._waited = 0.0  # seconds
        self._is_complete = False

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()  # it waits for the client to leave
        if self._is_too_large:
            raise HTTPException(413, f"the body is larger than {self._most} bytes")
        loop = asyncio.get_running_loop()
        begin = loop.time()
        patience = SLOW_SECONDS + self._received / MIN_RATE - self._waited
        try:
            async with asyncio.timeout(min(SILENT_SECONDS, patience)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body stopped, or came more slowly than {MIN_RATE} bytes a second: {self._received} bytes in "
                f"{self._waited + loop.time() - begin:.0f} s",
            ) from None
        self._waited += loop.time() - begin
        self._is_complete = not message.get("more_body", False)
        # Counted even if a size was declared, because a chunked body declares none.
        self._received += len(message.get("body", b""))
        if self._most is not None and self._received > self._most:
            raise HTTPException(413, f"the body is larger than {self._most} bytes")
        return message
