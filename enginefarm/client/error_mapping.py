"""Turn an HTTP error response back into the exception class that the farm raised."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from http.client import responses as standard_phrases

from pydantic import ValidationError

from enginefarm.client.proxies import Proxy
from enginefarm.client.urls import origin_text
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

# 408 and 429 are 4xx and not the caller's mistake: the same request may succeed later.
_BY_STATUS: dict[int, type[EnginefarmError]] = {
    401: Unauthenticated, 403: Forbidden, 404: NotFound, 408: FarmError, 409: Conflict, 410: NotFound, 429: FarmError,
}  # fmt: skip


def tree(root: type[EnginefarmError] = EnginefarmError) -> Iterator[type[EnginefarmError]]:
    """`root` and every class below it, parents first."""
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def error_of(status: int, body: bytes, url: str, proxy: Proxy | None = None) -> EnginefarmError:
    """The exception for a response with a `status` of 400 or more, with every problem that its body lists.

    `proxy` forwarded the request, and may have answered in the place of the server. No proxy can answer an https
    request that it has forwarded.

    A body that is not a problem document was written by something between this client and the farm. Its text is not
    repeated: it may be a page of HTML or contain terminal escapes. `url` is cut to its origin, because its query may
    contain a signature.
    """
    try:
        document = ProblemDocument.model_validate_json(body)
    except ValidationError:
        # The standard phrase, because the server's own could contain anything.
        phrase = standard_phrases.get(status, "")
        if proxy is None:
            return _class_of_status(status)(f"{origin_text(url)} answered {status} {phrase}".rstrip())
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return proxy.refusal(status, origin_text(url))
        return _class_of_status(status)(
            f"{proxy}, or a server behind it, answered {status} {phrase} to a request to {origin_text(url)}; NO_PROXY "
            "lists hosts to connect to without a proxy"
        )
    # A subclass that shares its parent's code comes later in the tree and wins: the most specific class.
    classes_by_code = {kind.code: kind for kind in tree()}
    # A newer farm may name a code that this client does not know; its status still says whose fault it is.
    kind = classes_by_code.get(document.code) or _class_of_status(status)
    if issubclass(kind, InvalidSpec):
        return kind(document.errors, document.detail)
    return kind(document.detail, problems=document.errors)


def _class_of_status(status: int) -> type[EnginefarmError]:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return FarmError
    return _BY_STATUS.get(status, InvalidRequest)
