"""Requests to one farm: the API key stays with the farm, and every failure becomes an error of the tree."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import urllib3
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as RequestTimedOut

from enginefarm.client.answer_body import MAX_BYTES, MAX_ERROR_BYTES, MAX_REDIRECT_BYTES, read_body
from enginefarm.client.certificates import advice_on
from enginefarm.client.error_mapping import error_of
from enginefarm.client.http_pool import HttpPool, default_headers
from enginefarm.client.proxies import Proxy, proxy_for
from enginefarm.client.urls import farm_url, join, origin, origin_text
from enginefarm.contract.errors import FarmError, InvalidRequest

Body = TypeVar("Body", bound=BaseModel)
Query = Mapping[str, str | int | float | None]

_MAX_REDIRECTS = 5
_CHUNK = 1 << 16  # bytes of one read at most: larger buffers come from the system each time, which costs more
# A slow line gets this many timeouts for a whole body; each of its pieces gets one.
_TIMEOUTS_OF_A_BODY = 10
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})\b")  # the standard library's only word on it


@dataclass(frozen=True)
class Response:
    """A response whose body was read."""

    status: int
    headers: Mapping[str, str]  # names in any case
    body: bytes


@dataclass(frozen=True)
class StreamedResponse:
    """A success, or 416; the body is still to be read."""

    status: int
    headers: Mapping[str, str]  # names in any case
    chunks: Iterator[bytes]  # as they arrive: bytes collected for a larger chunk would be lost with the connection


class Connection:
    """Connections to one farm and to the stores that its links name. Safe to share between threads."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        if api_key and (not api_key.isascii() or not api_key.isprintable() or " " in api_key):
            raise InvalidRequest("the API key has characters that no key has: copy it again into ENGINEFARM_API_KEY")
        self.url = farm_url(url)
        self._origin = origin(self.url)
        self._api_key = api_key
        self._timeout = timeout
        self._pool = HttpPool(timeout)

    def close(self) -> None:
        self._pool.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Query | None = None,
        json: Any = None,
        content: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        waits: float = 0,
    ) -> Response:
        """Send one request and return the response, also one that refuses.

        Args:
            waits: seconds for which the farm was asked to delay its response; they add to the timeout.

        Raises:
            FarmError: the farm cannot be reached, or redirects.
        """
        url = self._absolute(path, params)
        # A proxy in front of the farm may compress lists. Streams are never compressed: see `stream`.
        sent_headers = {"Accept-Encoding": "gzip, deflate"} | dict(headers or {})
        body: bytes | Iterable[bytes] | None = content
        if json is not None:
            sent_headers["Content-Type"] = "application/json"
            body = dumps(json, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        with self._translated_errors(url):
            response = self._open(method, url, sent_headers, body, waits)
            location = response.get_redirect_location()
            if location:
                response.close()
                # Followed blindly, a redirected POST becomes a GET, and the key would have to go along.
                raise FarmError(
                    f"{self.url} redirects to {origin_text(join(url, location))}: set ENGINEFARM_URL to where the "
                    "farm is"
                )
            refused = response.status >= HTTPStatus.BAD_REQUEST
            body_bytes = read_body(
                response,
                f"the farm at {self.url}",
                max_bytes=MAX_ERROR_BYTES if refused else MAX_BYTES,
                seconds=_TIMEOUTS_OF_A_BODY * self._timeout + waits,
                cut=refused,
            )
            self._pool.mark_used()
            return Response(response.status, response.headers, body_bytes)

    def request(self, method: str, path: str, **options: Any) -> Response:
        """`send`, but a refusal is raised as the class of the error tree that the farm named."""
        return self.require_success(self.send(method, path, **options))

    def require_success(self, response: Response) -> Response:
        """`response` if its status is below 400. Raises the error that it describes otherwise."""
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise error_of(response.status, response.body, self.url, _forwarding_proxy(self.url))
        return response

    def get(self, body: type[Body], path: str, *, params: Query | None = None) -> Body:
        return self.parse(body, self.request("GET", path, params=params))

    def parse(self, body: type[Body], response: Response) -> Body:
        """Raises FarmError if the response is not a `body`: something else than a farm answers at this URL."""
        try:
            return body.model_validate_json(response.body)
        except ValidationError:
            # Without its cause: pydantic repeats the body, which may be the login page of a proxy.
            proxy = _forwarding_proxy(self.url)
            through = f" through {proxy}" if proxy else ""
            raise FarmError(
                f"{self.url} answered {response.status}{through} with something that is not a {body.__name__}: "
                "is it an Enginefarm of this client's version? ENGINEFARM_URL says where the farm is"
            ) from None

    @contextmanager
    def stream(
        self, url: str, *, params: Query | None = None, headers: Mapping[str, str], waits: float = 0
    ) -> Iterator[StreamedResponse]:
        """GET `url`, absolute or of the farm, following redirects; the body is read inside the `with`.

        Bytes are not decompressed, so that they can be counted and resumed.

        Raises:
            FarmError: the server cannot be reached, or the connection broke, also while the body is read.
            EnginefarmError: the refusal that the response describes. 416 is returned: only the caller can judge it.
        """
        target = self._absolute(url, params)
        sent_headers = {"Accept-Encoding": "identity"} | dict(headers)
        with_key = True
        for _ in range(_MAX_REDIRECTS + 1):
            with self._translated_errors(target):
                # Once a link or a redirect has led away from the farm, no later request gets the key, even if a
                # redirect leads back: a store must not choose what is requested in the caller's name.
                with_key = with_key and origin(target) == self._origin
                response = self._open("GET", target, sent_headers, None, waits, with_key=with_key)
                location = response.get_redirect_location()
                if not location:
                    break
                # To its end, so that its connection can be used for the next request.
                read_body(response, origin_text(target), max_bytes=MAX_REDIRECT_BYTES, seconds=self._timeout, cut=True)
                target = join(target, location)
        else:
            raise FarmError(f"{origin_text(target)} redirects more than {_MAX_REDIRECTS} times")
        with self._translated_errors(target):
            try:
                refused = response.status >= HTTPStatus.BAD_REQUEST
                if refused and response.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    where = origin_text(target)
                    text = read_body(response, where, max_bytes=MAX_ERROR_BYTES, seconds=self._timeout, cut=True)
                    raise error_of(response.status, text, target, _forwarding_proxy(target))
                yield StreamedResponse(response.status, response.headers, _chunks(response))
            finally:
                # A connection with an unread body cannot be used again. One that was read to its end is back in the
                # pool already, and this does not touch it.
                response.close()
                self._pool.mark_used()

    def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        waits: float,
        *,
        with_key: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        sent_headers = default_headers() | dict(headers)
        # Links may lead anywhere; the key goes to the farm's own origin and nowhere else.
        if self._api_key and with_key and origin(url) == self._origin:
            sent_headers["Authorization"] = f"Bearer {self._api_key}"
        return self._pool.send(method, url, headers=sent_headers, body=body, wait_seconds=waits)

    def _absolute(self, url: str, params: Query | None) -> str:
        if "://" not in url:
            # Not by `urljoin`, which would drop the path of a farm like https://host/farm.
            url = f"{self.url}/{url.lstrip('/')}"
        query = {name: value for name, value in (params or {}).items() if value is not None}
        if not query:
            return url  # a signed link has a query of its own
        return f"{url}?{urlencode(query, quote_via=quote)}"

    @contextmanager
    def _translated_errors(self, url: str) -> Iterator[None]:
        """Raise a FarmError that says what failed for every failure of a request to `url`."""
        try:
            yield
        except LocationValueError as error:
            raise FarmError(f"the farm at {self.url} links to an address that is not an http or https URL") from error
        except HTTPError as error:
            where, hint = f"the store at {origin_text(url)}", ""
            if origin(url) == self._origin:
                where, hint = f"the farm at {self.url}", ". ENGINEFARM_URL says where the farm is"
            proxy = proxy_for(url, os.environ)
            through = f" through {proxy}" if proxy else ""
            refused = _REFUSED_TUNNEL.search(str(error))
            if proxy is not None and refused:
                raise proxy.refusal(int(refused[1]), where) from error
            match error:
                case ProxyError(original_error=SSLError() as tls_error):
                    text = f"cannot reach {where}{through}: {tls_error}. {advice_on(tls_error)}"
                case ProxyError():
                    text = f"cannot reach {where}{through}: {_reason(error.original_error)}"
                case SSLError():
                    text = f"cannot reach {where}: {error}. {advice_on(error)}"
                case NewConnectionError() | ConnectTimeoutError():
                    text = f"cannot reach {where}: {_reason(error)}{hint}"
                case RequestTimedOut():
                    text = f"{where} did not answer in time ({self._timeout:g} s){through}{hint}"
                case _:
                    text = f"the connection to {where}{through} broke ({type(error).__name__})"
            # The cause stays visible: following a log tells silence from a failure by it.
            raise FarmError(text) from error


def _forwarding_proxy(url: str) -> Proxy | None:
    """The proxy that reads the requests to `url` and could answer them itself: it only passes TLS on."""
    if origin(url)[0] != "http":
        return None
    return proxy_for(url, os.environ)


def _reason(error: BaseException) -> str:
    """What the system says about a connection that could not be made. urllib3's own text repeats the whole URL."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(error, ConnectTimeoutError):
        return "no answer in time"
    return type(cause).__name__


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    # read1: returns what has arrived. `read` would wait until the whole chunk is filled, which for a followed log is
    # until the compiler has printed 64 KiB.
    while chunk := response.read1(_CHUNK, decode_content=False):
        yield chunk
