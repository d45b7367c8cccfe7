"""Limit the size of request bodies, whether their size is declared or not. The refusal is a problem document."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20  # bytes; the largest matrix of specs is far below


class BodyLimit:
    """ASGI middleware that refuses bodies of more than MAX_BODY bytes with a 413."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An uploaded blob may have any size: its route streams it, and stops reading at the declared size.
        if scope["type"] != "http" or (scope["method"] == "PUT" and scope["path"].startswith("/v1/blobs/")):
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        too_large = declared.isdecimal() and int(declared) > MAX_BODY
        received = 0

        async def limited() -> Message:
            # Raised inside of the application and not before it: its exception handler answers with a problem document.
            nonlocal received
            if too_large:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
            message = await receive()
            # Counted even if a size was declared, because a chunked body declares none.
            received += len(message.get("body", b""))
            if received > MAX_BODY:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
            return message

        return await self._app(scope, limited, send)
