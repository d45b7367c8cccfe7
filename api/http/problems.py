"""Answer every error as application/problem+json (RFC 9457). A caller's mistake is never a 500."""

from __future__ import annotations

import logging
from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.leaving import ClientLeftError, on_client_left
from api.http.methods import HeadAsGet, allowed_methods
from enginefarm.contract.errors import EnginefarmError, InvalidRequest, InvalidSpec, Problem, TooManyFailedSignIns
from enginefarm.contract.spec import problems_of
from enginefarm.wire.bodies import ProblemDocument

log = logging.getLogger(__name__)

_NO_BODY = Problem(
    pointer="", code="missing", detail="the request has no body", expected="a JSON object",
    remedy="send the fields as JSON; /docs shows each route's",
)  # fmt: skip


# Registry clients read only the errors of the distribution specification, which has no code for other statuses.
_REGISTRY = "/v2"
_REGISTRY_CODES = {
    400: "NAME_INVALID", 401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 405: "UNSUPPORTED",
    429: "TOOMANYREQUESTS",
}  # fmt: skip


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


class WithoutNul:
    """ASGI middleware that refuses URLs with a NUL byte: PostgreSQL stores none, so a query with one would be a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            return await self._app(scope, receive, send)
        error = InvalidRequest("the URL has a NUL byte (%00): no name here has one")
        response = on_farm_error(Request(scope), error)
        return await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Make the application answer errors as problem documents."""
    app.add_middleware(HeadAsGet)
    app.add_middleware(WithoutNul)
    app.add_exception_handler(EnginefarmError, on_farm_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    # Starlette raises it for unknown routes and methods.
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(ClientLeftError, on_client_left)
    app.add_exception_handler(Exception, on_defect)


def _answer(request: Request, document: ProblemDocument) -> Response:
    path = _path(request)
    headers = {}
    match document.status:
        case 401:
            # RFC 9110 demands a challenge. A registry client does not send the password that it has without this one.
            headers["WWW-Authenticate"] = 'Basic realm="enginefarm"' if _is_registry(path) else "Bearer"
        case 405:
            headers["Allow"] = ", ".join(allowed_methods(request.scope))
        case 429 | 503:
            headers["Retry-After"] = "5"  # seconds
    if _is_registry(path):
        code = _REGISTRY_CODES.get(document.status, "UNAVAILABLE")
        errors = {"errors": [{"code": code, "message": document.detail}]}
        return JSONResponse(errors, status_code=document.status, headers=headers)
    body = document.model_copy(update={"instance": quote(path)}).model_dump(mode="json", exclude_none=True)
    return ProblemResponse(body, status_code=document.status, headers=headers)


def _path(request: Request) -> str:
    # Not `request.url.path`: with some Host headers a URL cannot be parsed.
    path: str = request.scope["path"]
    return path


def _is_registry(path: str) -> bool:
    return path == _REGISTRY or path.startswith(f"{_REGISTRY}/")


def on_farm_error(request: Request, error: Exception) -> Response:
    """Answer an error that the farm raised deliberately."""
    assert isinstance(error, EnginefarmError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # A part of the farm does not answer: its operator must know. Callers' mistakes are not logged.
        log.warning("%s %s: %s", request.method, _path(request), error.detail)
    response = _answer(request, ProblemDocument.of(error))
    if isinstance(error, TooManyFailedSignIns):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def on_validation_error(request: Request, error: Exception) -> Response:
    """Answer a request that FastAPI could not read: no JSON, no JSON type, a bad spec, or bad parameters."""
    assert isinstance(error, RequestValidationError)
    details = error.errors()
    if any(detail["type"] == "json_invalid" for detail in details):
        reason = details[0]["ctx"].get("error", "")
        position = details[0]["loc"][-1]
        return on_farm_error(request, InvalidRequest(f"the body is not JSON: {reason} (at character {position})"))
    # FastAPI leaves the body as bytes if the Content-Type is not JSON.
    if isinstance(error.body, bytes):
        return on_http_exception(request, HTTPException(415, "send the body with `Content-Type: application/json`"))
    if details[0]["loc"][0] == "body":
        for detail in details:
            detail["loc"] = detail["loc"][1:]  # JSON pointers begin inside of the body
        if details[0]["type"] == "missing" and not details[0]["loc"]:
            # A request without any body lacks no field of the spec: it lacks the spec.
            return on_farm_error(request, InvalidSpec([_NO_BODY]))
        return on_farm_error(request, InvalidSpec(problems_of(details)))
    problems = problems_of(details)
    summary = "; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems)
    return on_farm_error(request, InvalidRequest(summary, problems=problems))


def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an exception of the framework: an unknown route or method, or a body that is too large."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": ", ".join(allowed_methods(request.scope))})
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_")
    detail = f"{request.method} {_path(request)}: {error.detail}; /openapi.json lists all routes"
    return _answer(request, ProblemDocument(title=phrase, status=error.status_code, detail=detail, code=code))


def on_defect(request: Request, error: Exception) -> Response:
    """Answer a defect of the farm."""
    # The traceback goes to the log alone: it may show paths, queries or secrets.
    log.error("%s %s failed", request.method, _path(request), exc_info=error)
    document = ProblemDocument(
        title="The farm made a mistake",
        status=500,
        code="internal",
        detail="this is a defect of the farm, not of the request; the API's log has the details",
    )
    return _answer(request, document)
