"""The OpenAPI document: every answer of every route, refusals included, with media types and headers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from enginefarm.wire.bodies import ProblemDocument

PROBLEM = "application/problem+json"
PROBLEM_CONTENT = {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}

# What a refusal means, by status; a route that refuses for a reason of its own describes the status itself.
PROBLEMS = {
    400: "malformed request",
    401: "no API key, or an unknown one",
    403: "the key's scopes do not allow this, or a farm without API keys got it from a web page or through a proxy",
    404: "the resource does not exist",
    409: "the current state does not allow it",
    410: "the engine was withdrawn or removed; `detail` has the reason",
    408: "the body stopped, or came too slowly",
    413: "the body is too large",
    415: "the body is not declared as JSON",
    421: "a farm without API keys got a request for another host than this machine",
    422: "the request does not describe something that the farm can do; `errors` has every problem",
    429: "too many requests of this API key wait already, or too many wrong keys were sent from this address",
    503: "the database, the broker, the store or a model's source does not answer; try again",
}
_HEADERS = {
    401: {"WWW-Authenticate": "the scheme to authenticate with"},
    429: {"Retry-After": "seconds after which a retry may help"},
    503: {"Retry-After": "seconds after which a retry may help"},
}


def refuses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: it may answer these, besides what `document_of` adds to every route of its kind."""
    return {status: {"description": PROBLEMS[status]} for status in statuses}


def described_headers(**headers: str) -> dict[str, Any]:
    """`headers` of a response in OpenAPI's form, from descriptions by name; an underscore stands for a hyphen."""
    described = {}
    for name, description in headers.items():
        described[name.replace("_", "-")] = {
            "description": description, "required": True, "schema": {"type": "string"}
        }  # fmt: skip
    return described


def document_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the application."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        servers=app.servers,
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which `api.http.problems` replaces
        schemas.pop(name, None)
    template = "#/components/schemas/{model}"
    problem = ProblemDocument.model_json_schema(ref_template=template)
    schemas.update(problem.pop("$defs"))
    schemas[ProblemDocument.__name__] = problem
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _complete(path, operation)
    return document


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Add the refusals that follow from the kind of the route, and describe every refusal as a problem document."""
    # For a NUL in the URL, and for what `api.access.local_requests` refuses while the farm is open.
    statuses = {400, 403, 421}
    if "security" in operation:
        statuses |= {401, 429, 503}  # the catalogue is asked for the key; one caller may not ask too much at once
    if "{" in path:
        statuses.add(404)
    if "requestBody" in operation:
        statuses |= {408, 413, 415, 422}
    responses = operation["responses"]
    if responses.get("422", {}).get("description") == "Validation Error":
        del responses["422"]  # FastAPI's own for any parameter; a bad one is answered with a 400
    for status in statuses:
        responses.setdefault(str(status), {"description": PROBLEMS[status]})
    for text, response in responses.items():
        status = int(text)
        if status < 400 or "content" in response:
            continue
        response["content"] = {PROBLEM: PROBLEM_CONTENT}
        if status in _HEADERS:
            response["headers"] = described_headers(**_HEADERS[status])
    operation["responses"] = dict(sorted(responses.items()))
