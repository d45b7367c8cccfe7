"""The broker's URL: checked completely at the start of a process, and turned into what Celery needs.

No text of this module repeats a part of the URL that may be a secret. A password with an unescaped character moves the
borders of all parts, so a wrong port or path may be a piece of the password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from redis.backoff import NoBackoff
from redis.retry import Retry

SETTING = "ENGINEFARM_BROKER_URL"

_FORMS = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, unix:///PATH?db=N, or "
    "sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]/DATABASE?master_name=NAME"
)
_ESCAPES = "write %23 for #, %2F for /, %3F for ?, %40 for @, %25 for %, %3B for ;"
_TCP_SCHEMES = frozenset({"redis", "valkey"})
_TLS_SCHEMES = frozenset({"rediss", "valkeys"})
_SOCKET_SCHEMES = frozenset({"unix", "redis+socket", "valkey+socket", "redis+unix", "valkey+unix"})
_SENTINEL_SCHEMES = frozenset({"sentinel", "redis+sentinel", "redis-sentinel", "valkey+sentinel"})
_CLUSTER_SCHEME = re.compile(r"(redis|valkey)s?[+-]?cluster|cluster")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%A-Za-z]+\]")
_WRONG_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("master_name", "sentinel_username", "sentinel_password")
_DEFAULT_PORT = 6379
_DEFAULT_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class BrokerUrl:
    """What a valid broker URL says.

    Attributes:
        celery_url: the URL for Celery, in the one form that kombu understands without doubt.
        public: the server's address without credentials, for log lines and errors.
        tls: arguments of redis-py for TLS; None without TLS.
        transport_options: what kombu needs besides, for Sentinel.
        secrets: texts that no log line may have.
    """

    celery_url: str = field(repr=False)
    public: str
    tls: Mapping[str, Any] | None = None
    transport_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def verifies_certificates(self) -> bool:
        """True if the server's certificate is checked; False also without TLS."""
        return self.tls is not None and self.tls["ssl_cert_reqs"] != ssl.CERT_NONE


@dataclass(frozen=True)
class _UrlFields:
    """The parts of one URL behind its scheme; user and password are unescaped."""

    user: str
    password: str = field(repr=False)
    place: str  # hosts, or nothing for a socket
    path: str
    options: dict[str, str] = field(repr=False)

    @property
    def userinfo(self) -> str:
        if not self.password:
            return ""
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"


def parse_broker_url(text: str) -> BrokerUrl:
    """Check the URL and return what it says.

    Raises:
        ValueError: one line that names ENGINEFARM_BROKER_URL, what is wrong with it and what to do; no part of a
            password.
    """
    if _UNPRINTABLE.search(text):
        raise _wrong("it contains a blank, a line end or another unprintable character", "remove it, or write %20")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme):
        raise _wrong("it does not begin with a scheme", f"use {_FORMS}")
    if _CLUSTER_SCHEME.fullmatch(scheme):
        raise _wrong(
            f"{scheme}:// is a Redis Cluster, which Celery cannot use",
            "name a server without cluster mode, or use sentinel://",
        )
    if scheme in _SENTINEL_SCHEMES:
        return _sentinel(rest)
    if scheme in _SOCKET_SCHEMES:
        return _socket(_split(rest))
    if scheme in _TCP_SCHEMES | _TLS_SCHEMES:
        return _tcp(_split(rest), tls=scheme in _TLS_SCHEMES)
    raise _wrong(f"the farm has no broker of the scheme {scheme}://", f"use a Redis or Valkey server: {_FORMS}")


def _wrong(problem: str, remedy: str) -> ValueError:
    return ValueError(f"{SETTING}: {problem}: {remedy}")


def _split(rest: str) -> _UrlFields:
    """Split what follows the scheme."""
    user = password = ""
    userinfo, at, address = rest.rpartition("@")
    if at:
        # RFC 3986 ends the authority at the first of these, so that the password would be taken for a port or a path.
        if re.search(r"[#/?@\[\]]", userinfo) or _WRONG_ESCAPE.search(userinfo):
            raise _wrong("user, password or option has a character that must be escaped", _ESCAPES)
        user, _, password = (unquote(piece) for piece in userinfo.partition(":"))
        # `:@` has no password: an unset variable in ":${PASSWORD}@" leaves it.
        if user and not password:
            raise _wrong(
                "it has a user and no password",
                "write redis://:PASSWORD@HOST for a server that has a password and no users, else "
                "redis://USER:PASSWORD@HOST",
            )
    if "#" in address:
        raise _wrong("it has an unescaped #", _ESCAPES)
    address, _, query = address.partition("?")
    place, slash, path = address.partition("/")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return _UrlFields(user, password, place, slash + unquote(path), options)


def _host_and_port(place: str, default_port: int) -> tuple[str, int]:
    if place.startswith("["):
        host, bracket, rest = place.partition("]")
        host += bracket
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = place.partition(":")
    if not host:
        raise _wrong("it names no host", f"use {_FORMS}")
    if not port:
        port = str(default_port)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536 or colon not in {"", ":"}:
        raise _wrong(
            "the port is not a number from 1 to 65535",
            f"use HOST:PORT; if a password has special characters, {_ESCAPES}",
        )
    if not _HOST.fullmatch(host):
        raise _wrong("the host has a character that no name and no address has", f"use {_FORMS}")
    return host, int(port)


def _database(fields: _UrlFields, path: str) -> int:
    """The number of the database: in the path, or in the option `db`."""
    numbers = {
        value for value in (path.strip("/"), fields.options.get("db"), fields.options.get("virtual_host")) if value
    }
    if not numbers:
        return 0
    if len(numbers) > 1:
        raise _wrong("it names two databases", "give one number, in the path or as the option db")
    number = numbers.pop()
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise _wrong("the database is not a number", "end the URL with /0, or with another database's number")
    return int(number)


def _require_known(fields: _UrlFields, known: tuple[str, ...], kind: str) -> None:
    unknown = sorted(set(fields.options) - set(known))
    if unknown:
        raise _wrong(f"{kind} has no option {', '.join(map(ascii, unknown))}", f"use {', '.join(known)}, or none")


def _secrets(fields: _UrlFields, *passwords: str) -> frozenset[str]:
    """What no log line may have: passwords, as they are and as URLs have them, and the user in kombu's masked URLs."""
    plain = {password for password in (fields.password, *passwords) if password}
    escaped = {quote(password, safe="") for password in plain}
    return frozenset(plain | escaped | {f"{quote(fields.user, safe='')}:**"})


def _tcp(fields: _UrlFields, *, tls: bool) -> BrokerUrl:
    if re.search(r"[,;]", fields.place + fields.path):
        raise _wrong(
            "it names several hosts", "name one server; for a failover, use sentinel://; a Redis Cluster cannot be used"
        )
    host, port = _host_and_port(fields.place, _DEFAULT_PORT)
    if tls:
        _require_known(fields, ("db", *_TLS_OPTIONS), "a TLS URL")
    else:
        if any(name.startswith("ssl_") for name in fields.options):
            raise _wrong("redis:// is without TLS and has an option of TLS", "use rediss://, or remove the option")
        _require_known(fields, ("db",), "a URL without TLS")
    database = _database(fields, fields.path)
    scheme = "rediss" if tls else "redis"
    address = f"{host}:{port}/{database}"
    return BrokerUrl(
        f"{scheme}://{fields.userinfo}{address}",
        f"{scheme}://{address}",
        tls=_tls_arguments(fields.options) if tls else None,
        secrets=_secrets(fields),
    )


def _tls_arguments(options: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of redis-py. Certificates are verified unless the URL says otherwise: kombu's own default is not to."""
    verification = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verification not in {"required", "none"}:
        raise _wrong("the option ssl_cert_reqs is neither required nor none", "use required, or leave it out")
    check_hostname = options.get("ssl_check_hostname", "true").lower()
    if check_hostname not in {"true", "false"}:
        raise _wrong("the option ssl_check_hostname is neither true nor false", "use true, or leave it out")
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    authorities = options.get("ssl_ca_certs")
    context = ssl.create_default_context()
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except OSError as error:
        raise _wrong(
            f"ssl_ca_certs is not a readable PEM file ({error.strerror or 'no certificate'})", "correct it"
        ) from None
    try:
        if certificate is not None:
            # The password is for an encrypted key: without it OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        elif key is not None:
            raise _wrong("it has ssl_keyfile and no ssl_certfile", "name both PEM files")
    except OSError as error:
        raise _wrong(
            f"ssl_certfile and ssl_keyfile are no readable PEM files of one pair ({error.strerror or 'wrong content'})",
            "correct them",
        ) from None
    return {
        "ssl_cert_reqs": ssl.CERT_NONE if verification == "none" else ssl.CERT_REQUIRED,
        "ssl_check_hostname": check_hostname == "true",
        "ssl_ca_certs": authorities,
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
    }


def _socket(fields: _UrlFields) -> BrokerUrl:
    _require_known(fields, ("db", "virtual_host"), "the URL of a socket")
    if fields.place or fields.path in {"", "/"}:
        raise _wrong("it names no absolute path of a socket", "use unix:///PATH?db=N")
    database = _database(fields, "")
    path = quote(fields.path)
    return BrokerUrl(
        f"redis+socket://{fields.userinfo}{path}?virtual_host={database}",
        f"unix://{path}?db={database}",
        secrets=_secrets(fields),
    )


def _sentinel(rest: str) -> BrokerUrl:
    """Sentinels, in one URL with commas, or as Celery's list `sentinel://HOST;sentinel://HOST`."""
    items = [_split(re.sub(r"^[a-z+-]+://", "", item)) for item in rest.split(";")]
    places = [place for item in items for place in item.place.split(",")]
    addresses = [_host_and_port(place, _DEFAULT_SENTINEL_PORT) for place in places]
    credentials = {(item.user, item.password) for item in items if item.password} or {("", "")}
    paths = {item.path.strip("/") for item in items} - {""}
    if len(credentials) > 1 or len(paths) > 1:
        raise _wrong("its sentinels have different passwords or databases", "give one of each, in the first URL")
    options: dict[str, str] = {}
    for item in items:
        options |= item.options
    user, password = credentials.pop()
    fields = _UrlFields(user, password, "", "", options)
    if any(name.startswith("ssl") for name in options):
        raise _wrong(
            "sentinel:// has no TLS here", "use sentinels without TLS, or a rediss:// address that follows the primary"
        )
    _require_known(fields, ("db", *_SENTINEL_OPTIONS), "a sentinel:// URL")
    if not options.get("master_name"):
        raise _wrong("sentinel:// does not say which primary", "add ?master_name=NAME, as in `sentinel monitor NAME …`")
    database = _database(fields, paths.pop() if paths else "")
    # Each with credentials and database: kombu takes them from whichever it connects to.
    urls = [f"sentinel://{fields.userinfo}{host}:{port}/{database}" for host, port in addresses]
    hosts = ",".join(f"{host}:{port}" for host, port in addresses)
    # For the connections to the sentinels. By itself, redis-py tries one that is away for seconds.
    sentinel_arguments: dict[str, Any] = {
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "retry": Retry(NoBackoff(), 0),
    }
    for name in ("sentinel_username", "sentinel_password"):
        if options.get(name):
            sentinel_arguments[name.removeprefix("sentinel_")] = options[name]
    return BrokerUrl(
        ";".join(urls),
        f"sentinel://{hosts}/{database}?master_name={options['master_name']}",
        transport_options={"master_name": options["master_name"], "sentinel_kwargs": sentinel_arguments},
        secrets=_secrets(fields, options.get("sentinel_password", "")),
    )
