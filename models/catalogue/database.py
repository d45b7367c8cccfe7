"""Connections and transactions. A transaction opens and closes at the edge: a route, a task, a sweep."""

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
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from enginefarm.contract.errors import DatabaseUnavailable

_SQLITE_BUSY_SECONDS = 30  # one writer at a time: as long as several transactions of a busy farm may queue
_PING_IDLE_SECONDS = 1.0  # a PostgreSQL connection that was idle for longer is pinged before use

# libpq parameters: when a silent server counts as unreachable. TCP alone would wait 15 minutes.
_TIMEOUTS = {
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
        if postgresql:
            self.engine = _postgresql(url, pool_size)
        else:
            self.engine = _sqlite(url)
        # SQLite must take its write lock at BEGIN: a transaction that reads first and then writes fails at once if
        # another writer came between, without waiting for it.
        self._writer = self.engine.execution_options(begin="IMMEDIATE")
        self._reader = self._snapshots = self.engine
        if postgresql:
            # READ COMMITTED gives each statement its own snapshot anyway, so a reader without locks saves the round
            # trips of BEGIN and COMMIT. SQLite has no round trips, and one snapshot for the transaction.
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._snapshots = self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back if it raises.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Statements that change nothing. On PostgreSQL each sees what was committed before it: see `snapshot`.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        with _translated(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """As `read`, but all statements see one state of the catalogue.

        Reading a build and its action needs it: another transaction may end both between two statements.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        with _translated(), Session(self._snapshots, expire_on_commit=False) as session:
            yield session

    def ping(self) -> None:
        """Raises DatabaseUnavailable if the database does not answer."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the farm's own error for a database that cannot be reached. Programming errors and refused rows pass."""
    try:
        yield
    except OperationalError as error:
        raise DatabaseUnavailable(f"the catalogue's database does not answer: {_reason(error)}") from error
    except PoolTimeoutError as error:
        # Too much load, or statements that hang in the database.
        raise DatabaseUnavailable(
            "every connection of this process to the catalogue's database was in use for too long; try again"
        ) from error
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            # An operator's mistake, not a defect: a migration without its grants, or another process's account.
            raise DatabaseUnavailable(
                f"the catalogue refuses this account: {_reason(error)}; check the account in ENGINEFARM_DATABASE_URL, "
                "and run `python -m migrations.roles` as the owner of the tables"
            ) from error
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailable(f"the catalogue's database went away: {_reason(error)}") from error


def _json(value: Any) -> str:
    return to_json(value).decode()  # ten times as fast as the standard library's json


def _reason(error: DBAPIError) -> str:
    """The first line of the driver's message: it names host and port, never the password."""
    if error.orig is None:
        return type(error).__name__
    return str(error.orig).strip().splitlines()[0][:200]


def _postgresql(url: str, pool_size: int) -> Engine:
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        json_serializer=_json,
        connect_args={"application_name": "enginefarm", **_TIMEOUTS},
    )
    # Like pool_pre_ping, but without a ping for a connection that was in use a moment ago: that would be one more
    # round trip for each statement of a busy farm.

    @event.listens_for(engine, "checkin")
    def note_return(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["returned_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ping_if_idle(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        idle_seconds = time.monotonic() - record.info.get("returned_at", math.inf)
        if idle_seconds > _PING_IDLE_SECONDS:
            try:
                engine.dialect.do_ping(connection)
            except psycopg.OperationalError as error:
                raise InvalidatePoolError from error  # SQLAlchemy then opens a new connection

    return engine


def _sqlite(url: str) -> Engine:
    connect = {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=connect, json_serializer=_json)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not emit BEGIN: `begin` chooses its mode
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
