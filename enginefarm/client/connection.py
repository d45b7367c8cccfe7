"""The one HTTP client: it keeps the API key at home and turns every failure into an error of the tree."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from enginefarm.client.error_mapping import error_of
from enginefarm.contract.errors import FarmError, InvalidRequest, NotFound
from enginefarm.version import __version__

Body = TypeVar("Body", bound=BaseModel)
Query = Mapping[str, str | int | float | None]

CONNECT_SECONDS = 10.0
# A proxy named in the environment is for the world outside; this machine is not outside.
_LOOPBACK_WITHOUT_PROXY: dict[str, httpx.BaseTransport | None] = {
    "all://localhost": None,
    "all://127.0.0.1": None,
    "all://[::1]": None,
}


class Connection:
    """A pool of connections to one farm. Safe to share between threads."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self.url = _farm_url(url)
        self._timeout = timeout
        self._client = httpx.Client(
            base_url=self.url,
            auth=_OwnOrigin(self.url, _plain_key(api_key)) if api_key else None,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            headers={"User-Agent": f"enginefarm/{__version__}"},
            mounts=_LOOPBACK_WITHOUT_PROXY,
        )

    def close(self) -> None:
        self._client.close()

    def send(
        self, method: str, path: str, *, params: Query | None = None, waits: float = 0, **more: Any
    ) -> httpx.Response:
        """Send one request and return whatever the farm answers, refusals too.

        `waits` is how many seconds the farm was asked to hold its answer. FarmError if it cannot be reached.
        """
        with self._reached():
            response = self._client.request(method, path, params=_given(params), timeout=self._holding(waits), **more)
        if response.has_redirect_location:
            # Followed blindly, a redirected POST becomes a GET, and the key would have to go along.
            target = response.next_request.url if response.next_request else response.url
            raise FarmError(f"{self.url} redirects to {_shown(target)}: set ENGINEFARM_URL to where the farm is")
        return response

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """`send`, but a refusal is raised as the class of the error tree that the farm named."""
        return accepted(self.send(method, path, **more))

    def get(self, body: type[Body], path: str, *, params: Query | None = None) -> Body:
        return self.parse(body, self.request("GET", path, params=params))

    def parse(self, body: type[Body], response: httpx.Response) -> Body:
        try:
            return body.model_validate_json(response.content)
        except ValidationError:
            raise FarmError(
                f"{self.url} answered {response.status_code} with something that is not a {body.__name__}: "
                "is it an Enginefarm of this client's version? ENGINEFARM_URL says where the farm is"
            ) from None

    @contextmanager
    def stream(
        self, url: str, *, params: Query | None = None, headers: Mapping[str, str], waits: float = 0
    ) -> Iterator[httpx.Response]:
        """GET `url` (of the farm, or absolute), following redirects; the body is read inside the `with`.

        A connection lost while the body is read is a FarmError too. The status is the caller's to judge
        with `accepted`.
        """
        with (
            self._reached(),
            self._client.stream(
                "GET",
                url,
                params=_given(params),
                headers=dict(headers),
                follow_redirects=True,
                timeout=self._holding(waits),
            ) as response,
        ):
            yield response

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise FarmError(f"cannot reach {self._where(error)}: {error}. {_WHERE}") from error
        except httpx.TimeoutException as error:
            raise FarmError(f"{self._where(error)} did not answer in time ({self._timeout:g} s). {_WHERE}") from error
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise FarmError(f"the connection to {self._where(error)} broke: {error}") from error

    def _where(self, error: httpx.RequestError) -> str:
        url = error.request.url
        own = _origin(url) == _origin(httpx.URL(self.url))
        return f"the farm at {self.url}" if own else f"the store at {_shown(url)}"

    def _holding(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(self._timeout, connect=min(self._timeout, CONNECT_SECONDS), read=self._timeout + seconds)


_WHERE = "ENGINEFARM_URL says where the farm is"


def accepted(response: httpx.Response) -> httpx.Response:
    """`response` if it is a success; its body is read only if it is not. Raises what it tells of."""
    if response.status_code >= 400:
        response.read()
        raise error_of(response)
    return response


def segment(text: str) -> str:
    """`text` as one part of a path, whatever is in it."""
    if text in {"", ".", ".."}:
        raise NotFound(f"{text!r} names nothing: expected a key or the id of a build")
    return quote(text, safe="")


class _OwnOrigin(httpx.Auth):
    """Sends the key to the farm's own origin and to nobody else, whatever link the farm hands out.

    httpx drops it again where a redirect leaves the origin.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._origin = _origin(httpx.URL(url))
        self._bearer = f"Bearer {api_key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = self._bearer
        yield request


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _shown(url: httpx.URL) -> str:
    """The origin alone: the rest of a link may be a signature."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _farm_url(text: str) -> str:
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.query or url.fragment:
        raise InvalidRequest(
            "ENGINEFARM_URL must be like http://127.0.0.1:8000: http or https, a host, perhaps a port and a path. "
            "A key goes into ENGINEFARM_API_KEY"
        )
    return str(url).rstrip("/")


def _plain_key(api_key: str) -> str:
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise InvalidRequest("the API key has characters that no key has: copy it again into ENGINEFARM_API_KEY")
    return api_key


def _given(params: Query | None) -> dict[str, str | int | float] | None:
    """None rather than an empty mapping, for which httpx would drop the query that a link has already."""
    return {name: value for name, value in (params or {}).items() if value is not None} or None
