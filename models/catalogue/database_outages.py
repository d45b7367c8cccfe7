"""Which errors of a database are outages or an operator's to mend. Every other error is a defect of the farm.

PostgreSQL and poolers say by SQLSTATE what went wrong (appendix A of PostgreSQL's manual), SQLite by its primary result
code. Classes are listed rather than cases: a new code of a class that concerns the server is an outage, too.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import Enum

import psycopg
from sqlalchemy import URL

_REASON_LENGTH = 500


class Renewal(Enum):
    """Which of the pool's connections are closed after an error, so that later transactions open new ones."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


@dataclass(frozen=True)
class Outage:
    """Why a statement could not be run. `what` continues "the catalogue's database …"."""

    what: str
    remedy: str = ""
    renewal: Renewal = Renewal.NONE

    def sentence(self, error: BaseException, url: URL) -> str:
        """One line for an operator. The driver's reason names host, port and user, never the password."""
        # SQLite's messages do not say which file they mean.
        file = f" {url.database}" if url.get_backend_name() == "sqlite" and url.database else ""
        line = f"the catalogue's database{file} {self.what}: {_reason(error)}"
        return f"{line}; {self.remedy}" if self.remedy else line


_OTHER_TABLES = Outage(
    "does not have the tables of this program", "check ENGINEFARM_DATABASE_URL, and run `python -m migrations.upgrade`"
)
_FOREIGN_TABLES = Outage(
    "has tables of another program in the way", "give the farm a database of its own in ENGINEFARM_DATABASE_URL"
)
READ_ONLY = Outage(
    "takes no writes",
    "if it is a standby since a failover, let ENGINEFARM_DATABASE_URL lead to the primary",
    Renewal.ALL,
)
LOST_CONNECTION = Outage("lost or refused the connection", renewal=Renewal.ONE)
_CONNECTING = Outage("cannot be connected to", "check ENGINEFARM_DATABASE_URL, and that the server runs")
_OPENING = Outage(
    "cannot be opened",
    "check ENGINEFARM_DATABASE_URL: the folder of the file must exist, and this user must be able to write there",
    Renewal.ALL,
)
_FULL = Outage("is at a limit of its resources", "see what its disk, memory and max_connections allow")
_INTERRUPTED = Outage("interrupted the transaction", renewal=Renewal.ONE)
_PREPARED = Outage("mixed up connections", "its pooler must not share prepared statements", Renewal.ONE)
_BROKEN = Outage("failed", "see its log", Renewal.ONE)

# By the longest prefix of the SQLSTATE that is listed.
_POSTGRESQL = {
    "08": LOST_CONNECTION,  # poolers report most of their limits as 08P01
    "0A": Outage("lacks a feature that the farm needs", "it is tested with PostgreSQL 17 and 18"),
    "22P05": Outage("cannot store a character of this text", "its encoding must be UTF8"),
    "25006": READ_ONLY,
    "25P03": _INTERRUPTED,  # idle_in_transaction_session_timeout
    "25P04": _INTERRUPTED,  # transaction_timeout
    "26": _PREPARED,
    "28": _CONNECTING,
    "3D": _CONNECTING,
    "3F": Outage("has no schema for this account", "check its search_path and its rights on the schema"),
    "40": Outage("undid the transaction in favour of another one", "try again"),
    "42501": Outage(
        "refuses this account",
        "check the account in ENGINEFARM_DATABASE_URL: migrations need the owner of the tables, other accounts the "
        "rights that `python -m migrations.roles` grants as the owner",
    ),
    "42703": _OTHER_TABLES,
    "42P01": _OTHER_TABLES,
    "42P05": _PREPARED,
    "42P07": _FOREIGN_TABLES,
    "53": _FULL,
    "55": Outage("cannot do that now", "try again"),
    "57": _INTERRUPTED,
    "57014": Outage("cancelled the statement", "see statement_timeout, and try again"),
    "58": _BROKEN,
    "F0": _BROKEN,
    "XX": _BROKEN,
}

_SQLITE = {
    sqlite3.SQLITE_PERM: _OPENING,
    sqlite3.SQLITE_BUSY: Outage("is locked by another process", "try again"),
    sqlite3.SQLITE_LOCKED: Outage("is locked by another transaction", "try again"),
    sqlite3.SQLITE_NOMEM: _FULL,
    sqlite3.SQLITE_READONLY: Outage("takes no writes", "check the rights on its file and folder", Renewal.ALL),
    sqlite3.SQLITE_INTERRUPT: _INTERRUPTED,
    sqlite3.SQLITE_IOERR: Outage("cannot be read or written", "check its disk", Renewal.ALL),
    sqlite3.SQLITE_CORRUPT: Outage("is damaged", "check its disk, and restore the file from a backup", Renewal.ALL),
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CANTOPEN: _OPENING,
    sqlite3.SQLITE_PROTOCOL: Outage("is locked by another process", "try again"),
    sqlite3.SQLITE_NOLFS: _FULL,
    sqlite3.SQLITE_AUTH: _OPENING,
    sqlite3.SQLITE_NOTADB: Outage("is no SQLite database", "check ENGINEFARM_DATABASE_URL", Renewal.ALL),
}


def outage_of(error: BaseException, *, connecting: bool) -> Outage | None:
    """What an error of psycopg or sqlite3 says about the database; None if the statement itself is wrong.

    `connecting`: it was raised while a connection was opened, when no statement can be wrong.
    """
    if isinstance(error, psycopg.Error):
        return _postgresql_outage(error, connecting=connecting)
    if isinstance(error, sqlite3.Error):
        return _sqlite_outage(error, connecting=connecting)
    return None


def _postgresql_outage(error: psycopg.Error, *, connecting: bool) -> Outage | None:
    state = error.sqlstate or ""
    for length in (5, 2):
        if state[:length] in _POSTGRESQL:
            return _POSTGRESQL[state[:length]]
    if connecting:
        return _CONNECTING
    # Without a SQLSTATE the error comes from the client's library: a statement that it refused, or a connection that
    # was closed, was cut, or carried an answer that makes no sense.
    refused_statements = psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError
    if not state and not isinstance(error, refused_statements):
        return LOST_CONNECTION
    return None


def _sqlite_outage(error: sqlite3.Error, *, connecting: bool) -> Outage | None:
    # An error of Python's own module has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code in _SQLITE:
        return _SQLITE[code]
    if code == sqlite3.SQLITE_ERROR:
        # SQLite has one code for all statements that it cannot prepare.
        if str(error).startswith(("no such table", "no such column")):
            return _OTHER_TABLES
        if str(error).endswith("already exists"):
            return _FOREIGN_TABLES
    return _OPENING if connecting else None


def _reason(error: BaseException) -> str:
    """The driver's message in one line, without the hints and the statement that follow its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Of several hosts, or several addresses of one, the first line has the last attempt and these lines have each.
    attempts = [line.removeprefix("- ") for line in lines if line.startswith("- host:")]
    reason = "; ".join(attempts or lines[:1])
    return reason[:_REASON_LENGTH] or type(error).__name__
