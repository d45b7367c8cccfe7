"""The proxy of a request, as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name it.

Own code, because `urllib.request` knows neither networks nor IPv6 addresses in NO_PROXY, and does not tell which
variable named a proxy.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import responses as standard_phrases
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from enginefarm.contract.errors import EnginefarmError, FarmError, InvalidRequest

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):(\d+)")  # not an IPv6 address without brackets


@dataclass(frozen=True)
class Proxy:
    """An http or https proxy."""

    url: str  # scheme, host and port: what may be shown
    variable: str  # of the environment, that names it
    authorization: str | None = field(repr=False)  # value of the header Proxy-Authorization

    def __str__(self) -> str:
        return f"the proxy {self.url} ({self.variable})"

    def refusal(self, status: int, where: str) -> EnginefarmError:
        """The error for a proxy that answers 4xx or 5xx itself, to a request to `where`."""
        phrase = standard_phrases.get(status, "")
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self.authorization is None:
            return InvalidRequest(
                f"{self} requires a user and a password: write them into {self.variable} as "
                "http://user:password@host:port, with special characters escaped (%40 for @)"
            )
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return InvalidRequest(f"{self} does not accept the user and the password in {self.variable}: correct them")
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return InvalidRequest(
                f"{self} refuses to connect to {where} ({status} {phrase}): have it allowed there, or add the host to "
                "NO_PROXY to connect without a proxy"
            )
        return FarmError(f"{self} cannot connect to {where} ({status} {phrase})")


def proxy_for(url: str, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy through which `url` is requested; None if it is requested directly.

    Lower-case variables come before upper-case ones, HTTP_PROXY and HTTPS_PROXY before ALL_PROXY. A proxy without a
    scheme is an http proxy. Addresses of this machine are always requested directly: a proxy would take them for its
    own.

    Raises:
        LocationParseError: `url` is not a URL.
        InvalidRequest: the variable for `url` names no http or https proxy. The text has no password.
    """
    parsed = parse_url(url)
    scheme, host = parsed.scheme or "", _bare(parsed.host or "")
    _, no_proxy = _read(environment, "NO_PROXY")
    if _is_this_machine(host) or _is_exempt(host, parsed.port or _DEFAULT_PORTS.get(scheme), no_proxy):
        return None
    for name in (f"{scheme.upper()}_PROXY", "ALL_PROXY"):
        variable, text = _read(environment, name)
        if text:
            return _parse(text, variable, scheme, host)
    return None


def _read(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable `name` as it is spelt, and its value; "" if it is not set."""
    if name.lower() in environment:
        return name.lower(), environment[name.lower()].strip()
    # A CGI program gets the header `Proxy` of a request, which anybody can send, as HTTP_PROXY (CVE-2016-1000110).
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
        return name, ""
    return name, environment.get(name, "").strip()


def _parse(text: str, variable: str, scheme: str, host: str) -> Proxy:
    if "://" not in text:
        text = f"http://{text}"
    # Python's parser, not urllib3's: user and password are wanted apart.
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        proxy_host = parts.hostname or ""
        if ":" in proxy_host:
            proxy_host = f"[{proxy_host}]"
        proxy_url = parse_url(f"{parts.scheme}://{proxy_host}" + (f":{port}" if port else "")).url
    except (ValueError, LocationParseError):
        proxy_host = ""
    # An unescaped "/" in a password ends the host: what looks like the host is then the user.
    if not proxy_host or "@" in parts.path + parts.query + parts.fragment:
        # The text does not repeat the value, which may hold a password.
        raise InvalidRequest(
            f"{variable} is not the URL of a proxy: expected http://host:port or http://user:password@host:port, with "
            "special characters of user and password escaped (%40 for @, %2F for /)"
        )
    if parts.scheme not in _DEFAULT_PORTS:
        specific = variable if not variable.lower().startswith("all") else f"{scheme.upper()}_PROXY"
        raise InvalidRequest(
            f"{variable} names the proxy {proxy_url}, and only http and https proxies are supported: name one in "
            f"{specific}, or add {host} to NO_PROXY to connect without a proxy"
        )
    authorization = None
    if parts.username:
        # As bytes: a password may be escaped in any character set.
        user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
        authorization = "Basic " + b64encode(user + b":" + password).decode()
    return Proxy(proxy_url, variable, authorization)


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _is_exempt(host: str, port: int | None, no_proxy: str) -> bool:
    """True if an entry of NO_PROXY covers the host: a name (with its subdomains), an address, a network, or `*`.

    Names are not resolved, so an entry with an address covers URLs with an address only.
    """
    address = _address(host)
    for entry in no_proxy.replace(",", " ").split():
        if entry == "*":
            return True
        name = entry
        with_port = _WITH_PORT.fullmatch(entry)
        if with_port:
            if int(with_port[2]) != port:
                continue
            name = with_port[1]
        if address is None:
            domain = _bare(name).removeprefix("*").removeprefix(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
            continue
        try:
            network = ip_network(name.replace("[", "").replace("]", ""), strict=False)
        except ValueError:  # a name
            continue
        if address in network:
            return True
    return False


def _bare(host: str) -> str:
    """A host without brackets, trailing dot and escapes, in lower case."""
    return unquote(host).strip("[]").removesuffix(".").lower()


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """None if the host is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
