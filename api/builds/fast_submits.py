"""The fast path of POST /v1/builds: a body that was validated before is not parsed again.

FastAPI's routing, validation and dependencies cost several times what the answer costs. This middleware answers a
request without them if it is sure of everything that they would find. It passes every other request on, as it came:
the route is the one truth, and no refusal is made here. See docs/adr/0029-fast-submits.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.builds.submit import accepted
from api.control import ControlPlane
from api.http.problems import on_farm_error
from api.planning.cached_submits import MAX_BODY, Submit
from api.submits.new_submits import NewSubmit
from enginefarm.contract.errors import Busy, DatabaseUnavailable
from models.security import api_keys as access
from models.security.api_keys import Caller

_PATH = "/v1/builds"
# In which a body must be complete. The ordinary path reads slower ones, and limits how slow they may be.
_BODY_SECONDS = 1.0


class FastSubmits:
    """ASGI middleware. It stands behind those that refuse requests for their headers, and before the one that limits
    bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != _PATH or scope["query_string"]:
            return await self._app(scope, receive, send)
        control: ControlPlane = scope["app"].state.control
        try:
            # Before the body is read: nobody without a key may send one.
            caller = await _submitter(control, scope)
            if caller is None:
                return await self._app(scope, receive, send)
            request = _Request(receive)
            body = await request.read_body()
            spec = control.cached_submits.spec_of(body)
            if spec is not None:
                answer = await control.cached_submits.answer(Submit(spec, caller.name))
                submitted = answer.submitted
                if answer.plan is None:
                    # It is invalid by now, or its model changed.
                    control.cached_submits.forget(body)
                elif submitted is None:
                    # If too many of the caller's submits wait, the route refuses this one.
                    with suppress(Busy):
                        new = NewSubmit(answer.plan, caller.name, require_worker=False)
                        submitted = await control.new_submits.answer(new)
                if submitted is not None:
                    return await accepted(control, submitted)(scope, receive, send)
        except DatabaseUnavailable as error:
            return await on_farm_error(Request(scope), error)(scope, receive, send)
        return await self._app(scope, request.receive, send)


async def _submitter(control: ControlPlane, scope: Scope) -> Caller | None:
    """The caller; None if the request is not a plain JSON request with the key of one who may submit.

    Raises:
        DatabaseUnavailable: the keys cannot be read.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    # A farm without keys checks more than a key. Of a header that comes twice, the route knows which one counts.
    if control.open_mode.was_open or len(headers) != len(scope["headers"]):
        return None
    length = headers.get(b"content-length", b"")
    if headers.get(b"content-type") != b"application/json" or not length.isdigit() or int(length) > MAX_BODY:
        return None
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme != b"Bearer":
        return None
    caller = await control.callers.find(key.decode("latin-1"))
    if caller is None or access.Scope.SUBMIT not in caller.scopes:
        return None
    return caller


class _Request:
    """The body of a request, which the next application can read again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: deque[Message] = deque()

    async def read_body(self) -> bytes:
        """The whole body; what came of it, if it takes longer or the client left."""
        body = b""
        more_body = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_BODY_SECONDS):
                while more_body:
                    message = await self._receive()
                    self._messages.append(message)
                    body += message.get("body", b"")
                    more_body = message.get("more_body", False)
        return body

    async def receive(self) -> Message:
        """As the server's `receive`, from the first message on."""
        if self._messages:
            return self._messages.popleft()
        return await self._receive()
