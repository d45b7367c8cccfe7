"""A limit to the size of a request's body, declared or not; the refusal is a problem document like every other.

A blob is what it is: its route never holds it, and stops reading at the size that was declared.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20  # bytes; the largest matrix of specs is far below


class BodyLimit:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_blob(scope):
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
        left = -1 if declared.isdecimal() and int(declared) > MAX_BODY else MAX_BODY

        async def limited() -> Message:
            nonlocal left
            message = await receive() if left >= 0 else {"type": "http.request"}
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
            return message

        return await self._app(scope, limited, send)


def _is_blob(scope: Scope) -> bool:
    return bool(scope["method"] == "PUT" and scope["path"].startswith("/v1/blobs/"))
