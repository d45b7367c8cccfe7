"""Engines and transactions. A transaction opens and closes at the edge: a route, a task, a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pydantic_core import to_json
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from enginefarm.contract.errors import DatabaseUnavailable

_SQLITE_BUSY_SECONDS = 30
_TRUSTED_SECONDS = 1.0  # a PostgreSQL connection that was put back less long ago is not pinged before use

# libpq's, after its words: how soon a server is taken for gone of which nothing is heard. TCP alone waits 15 minutes.
_GONE = {
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 15_000,  # milliseconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
}


class Database:
    """One database of the catalogue, PostgreSQL (psycopg 3) or SQLite (WAL)."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        postgresql = make_url(url).get_backend_name() == "postgresql"
        self.engine = _postgresql(url, pool_size) if postgresql else _sqlite(url)
        # SQLite takes its write lock at BEGIN: a read that turns into a write could not wait for it.
        self._writer = self.engine.execution_options(begin="IMMEDIATE")
        # PostgreSQL (READ COMMITTED) gives each statement its own snapshot anyway: what neither locks nor writes twice
        # saves the round trips of BEGIN and COMMIT. SQLite has no round trips, and a snapshot for the whole block.
        autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reader = autocommit if postgresql else self.engine
        self._snapshots = (
            self.engine.execution_options(isolation_level="REPEATABLE READ") if postgresql else self.engine
        )
        self._single_writer = autocommit if postgresql else self._writer

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, undone if it raises.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write_one(self) -> Iterator[Session]:
        """A transaction of a single statement."""
        with _translated(), Session(self._single_writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Changes nothing. On PostgreSQL each statement sees what was committed before it: see `snapshot`."""
        with _translated(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """As `read`, but all statements see one state of the catalogue: a build and its action, for example, which
        another transaction may end between two statements."""
        with _translated(), Session(self._snapshots, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Say "unreachable" in the farm's words. Programming errors and refused rows pass through."""
    try:
        yield
    except OperationalError as error:
        raise DatabaseUnavailable(f"the catalogue's database does not answer: {_reason(error)}") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailable(f"the catalogue's database went away: {_reason(error)}") from error


def _json(value: Any) -> str:
    """A tenth of the time that the standard library takes."""
    return to_json(value).decode()


def _reason(error: DBAPIError) -> str:
    """The driver's first line: it names host and port, never the password."""
    return str(error.orig).strip().splitlines()[0][:200] if error.orig else type(error).__name__


def _postgresql(url: str, pool_size: int) -> Engine:
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        json_serializer=_json,
        connect_args={"application_name": "enginefarm", **_GONE},
    )
    _ping_what_lay_idle(engine)
    return engine


def _ping_what_lay_idle(engine: Engine) -> None:
    """As pool_pre_ping, but a connection that was in use just now is not asked: that would be one more round trip
    for each statement of a busy farm."""

    @event.listens_for(engine, "checkin")
    def _put_back(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["put_back"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _take(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - record.info.get("put_back", math.inf) > _TRUSTED_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg.OperationalError as error:
                raise InvalidatePoolError from error  # and SQLAlchemy takes a new connection


def _sqlite(url: str) -> Engine:
    connect = {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=connect, json_serializer=_json)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
