"""URLs of farms and stores: which are valid, which share an origin, and what of them may be shown.

They are parsed by urllib3, because urllib3 also connects to them: a second parser could take another host out of the
same text, and the API key would be sent there.
"""

from __future__ import annotations

from urllib.parse import quote, urljoin

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from enginefarm.contract.errors import InvalidRequest, NotFound

_DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str | None, str | None, int | None]


def origin(url: str) -> Origin:
    """Scheme, host and port of `url`. Raises LocationParseError if it is not a URL."""
    parsed = parse_url(url)
    return parsed.scheme, parsed.host, parsed.port or _DEFAULT_PORTS.get(parsed.scheme or "")


def origin_text(url: str) -> str:
    """The part of `url` that may be shown: a path and a query may contain a signature, the user part a password."""
    try:
        parsed = parse_url(url)
    except LocationParseError:
        return "an address that is not a URL"
    return f"{parsed.scheme}://{parsed.netloc}"


def join(base: str, location: str) -> str:
    """The absolute URL of a `Location` header. Raises LocationParseError if it cannot be one."""
    try:
        return urljoin(base, location)
    except ValueError as error:
        raise LocationParseError(location) from error


def farm_url(text: str) -> str:
    """`text` without a trailing slash.

    Raises:
        InvalidRequest: it is not the URL of a farm. The message does not repeat it, because people paste keys there.
    """
    try:
        parsed = parse_url(text.strip())
        (parsed.host or "").encode("idna")  # as urllib3 does when it connects: `a..b` is no host
    except (LocationParseError, UnicodeError):
        parsed = Url()
    if parsed.scheme not in _DEFAULT_PORTS or not parsed.host or parsed.auth or parsed.query or parsed.fragment:
        raise InvalidRequest(
            "ENGINEFARM_URL must be like http://127.0.0.1:8000: http or https, a host, perhaps a port and a path. "
            "A key goes into ENGINEFARM_API_KEY"
        )
    return parsed.url.rstrip("/")


def path_segment(text: str) -> str:
    """`text`, quoted so that it stays one segment of a path whatever it contains.

    Raises:
        NotFound: no quoting helps; a server would resolve `.` and `..` to another path.
    """
    if text in {"", ".", ".."}:
        raise NotFound(f"{text!r} is not a name: expected a key or the id of a build")
    return quote(text, safe="")
