"""From an HTTP refusal back to the class of the error tree that the farm raised."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
from pydantic import ValidationError

from enginefarm.contract.errors import (
    Conflict,
    EnginefarmError,
    FarmError,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    Unauthenticated,
)
from enginefarm.wire.bodies import ProblemDocument

_BY_STATUS: dict[int, type[EnginefarmError]] = {
    401: Unauthenticated, 403: Forbidden, 404: NotFound, 408: FarmError, 409: Conflict, 410: NotFound, 429: FarmError,
}  # fmt: skip


def tree(root: type[EnginefarmError] = EnginefarmError) -> Iterator[type[EnginefarmError]]:
    """`root` and every class below it, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def error_of(response: httpx.Response) -> EnginefarmError:
    """The error that `response` (400 or more, its body read) tells of, with every problem it lists.

    A body that is no problem document came from something between us and the farm: its text is not
    repeated, and the URL is cut to its origin, because the rest of it may hold a signature.
    """
    try:
        document = ProblemDocument.model_validate_json(response.content)
    except ValidationError:
        where = f"{response.url.scheme}://{response.url.netloc.decode('ascii')}"
        detail = f"{where} answered {response.status_code} {response.reason_phrase}".rstrip()
        return _by_status(response.status_code)(detail)
    kind = _by_code().get(document.code) or _by_status(response.status_code)
    if issubclass(kind, InvalidSpec):
        return kind(document.errors, document.detail)
    return kind(document.detail, problems=document.errors)


def _by_code() -> dict[str, type[EnginefarmError]]:
    # A class that shares its parent's code comes later in the tree and wins: the most specific one.
    return {kind.code: kind for kind in tree()}


def _by_status(status: int) -> type[EnginefarmError]:
    return _BY_STATUS.get(status, InvalidRequest if status < 500 else FarmError)
