"""Every error as application/problem+json (RFC 9457). A caller's mistake is never a 500."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from enginefarm.contract.errors import EnginefarmError, InvalidRequest, InvalidSpec, Problem
from enginefarm.contract.spec import problems_of
from enginefarm.wire.bodies import ProblemDocument

log = logging.getLogger(__name__)

_NO_BODY = Problem(
    pointer="", code="missing", detail="the request has no body", expected="a JSON object",
    remedy="send the fields as JSON; /docs shows each route's",
)  # fmt: skip


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


class WithoutNul:
    """Refuses URLs with a NUL: PostgreSQL keeps none in a text, and nothing that the farm knows has one in its name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            return await self._app(scope, receive, send)
        refused = InvalidRequest("the URL has a NUL byte (%00): no name here has one")
        return await _on_purpose(Request(scope), refused)(scope, receive, send)


def install(app: FastAPI) -> None:
    app.add_middleware(WithoutNul)
    app.add_exception_handler(EnginefarmError, _on_purpose)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _unforeseen)


def _answer(request: Request, document: ProblemDocument) -> ProblemResponse:
    body = document.model_copy(update={"instance": request.url.path}).model_dump(mode="json", exclude_none=True)
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}.get(document.status)
    return ProblemResponse(body, status_code=document.status, headers=headers)


def _on_purpose(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, EnginefarmError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s %s: %s", request.method, request.url.path, error.detail)
    return _answer(request, ProblemDocument.of(error))


def _not_valid(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(found["type"] == "json_invalid" for found in details):
        where = details[0]["ctx"].get("error", "")
        return _on_purpose(request, InvalidRequest(f"the body is not JSON: {where} at byte {details[0]['loc'][-1]}"))
    if isinstance(error.body, bytes):
        return _plain(request, HTTPException(415, "send the body with `Content-Type: application/json`"))
    if details[0]["loc"][0] == "body":
        for found in details:
            found["loc"] = found["loc"][1:]  # "body" is no part of the pointer
        nothing = details[0]["type"] == "missing" and not details[0]["loc"]
        return _on_purpose(request, InvalidSpec([_NO_BODY] if nothing else problems_of(details)))
    problems = problems_of(details)
    summary = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems)
    return _on_purpose(request, InvalidRequest(summary, problems=problems))


def _plain(request: Request, error: Exception) -> ProblemResponse:
    """Starlette's own: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_")
    detail = f"{request.method} {request.url.path}: {error.detail}; /openapi.json lists what there is"
    return _answer(request, ProblemDocument(title=phrase, status=error.status_code, detail=detail, code=code))


def _unforeseen(request: Request, error: Exception) -> ProblemResponse:
    """A defect of ours. The log has the whole story; the answer has none of it."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(
        request,
        ProblemDocument(
            title="The farm made a mistake", status=500, code="internal",
            detail="this is a defect of the farm, not of the request; the API's log has the details",
        ),
    )  # fmt: skip
