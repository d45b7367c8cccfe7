"""The form of ENGINEFARM_DATABASE_URL. No error text shows more of it than its scheme: the rest may be a password."""

from __future__ import annotations

import re
from pathlib import Path

from psycopg.pq import Conninfo
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_EXPECTED = "expected postgresql://user:password@host/db or sqlite:////path"
# The farm always connects with psycopg 3. The other names are in URLs that were written for another program.
_POSTGRESQL = {"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"}
_LOCATION = re.compile(r"[^:/]*(?::[^@]*)?@(?P<location>.*)")  # what follows user and password, as SQLAlchemy reads it


def parse_database_url(text: str) -> URL:
    """Parse a URL of PostgreSQL or SQLite into the form that `create_engine` takes.

    Raises:
        ValueError: it is neither; the text names the setting and what to change.
    """
    if text != text.strip() or any(ord(character) < 32 for character in text):
        raise _wrong("has white space or a line break at its end, its beginning or within", "remove it")
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise _wrong("has no scheme", _EXPECTED)
    if scheme not in _POSTGRESQL | {"sqlite"}:
        shown = repr(scheme) if re.fullmatch(r"[^:@]{1,30}", scheme) else "something else"
        raise _wrong(f"begins with {shown}", _EXPECTED)
    if scheme != "sqlite":
        _require_unambiguous(rest)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Without the error's text, which repeats a part of the URL.
        raise _wrong("cannot be parsed", f"{_EXPECTED}, with a number as its port") from None
    if scheme != "sqlite":
        _require_known_options(url)
        return url.set(drivername="postgresql+psycopg")
    if url.host is not None:
        raise _wrong("has two slashes before a path", "expected sqlite:////path, with four for an absolute path")
    if (url.database or "").startswith("file:"):
        raise _wrong("has a path that begins with file:", "expected sqlite:////path")
    if url.database not in (None, "", ":memory:") and not Path(url.database).is_absolute():
        raise _wrong("has a path that depends on where a process starts", "expected sqlite:////path, with four slashes")
    if url.query:
        # They would have no effect: the farm chooses the options of SQLite itself.
        raise _wrong(f"has the option {min(url.query)[:30]!r}", "write sqlite:////path without options")
    return url


def sqlite_file(text: str) -> Path | None:
    """The file of a SQLite database; None for another database and one in memory.

    Raises:
        ValueError: as `parse_database_url`.
    """
    url = parse_database_url(text)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(url.database)


def _require_unambiguous(rest: str) -> None:
    """Refuse a URL whose password would be taken for its host: the driver's error would then show a part of it."""
    match = _LOCATION.fullmatch(rest)
    location = match["location"] if match else rest
    before_options = location.partition("=")[0]
    if "@" in before_options:
        raise _wrong(
            "has an @ in its user or password",
            "write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23 and % as %25 there",
        )
    if re.match(r"[^/?]*:[^/?]*,", location):
        raise _wrong(
            "has several hosts with ports",
            "write postgresql://user:password@/db?host=first:5432&host=second:5432&target_session_attrs=read-write",
        )


def _require_known_options(url: URL) -> None:
    """Refuse options of other programs' URLs, such as `schema` of Prisma and `pool_size` of SQLAlchemy."""
    options = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in options:
            raise _wrong(
                f"has the option {name[:30]!r}, which PostgreSQL's library does not know",
                "remove it; a schema is chosen with ?options=-csearch_path%3DNAME",
            )
        # Several hosts are one failover; every other option has one value.
        if isinstance(value, tuple) and name not in ("host", "port"):
            raise _wrong(f"has the option {name!r} {len(value)} times", "write it once")


def _wrong(found: str, remedy: str) -> ValueError:
    return ValueError(f"ENGINEFARM_DATABASE_URL {found}: {remedy}")
