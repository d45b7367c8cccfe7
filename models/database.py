"""Engines and transactions. A transaction opens and closes at the edge: a route, a task, a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from enginefarm.errors import DatabaseUnavailable

_SQLITE_BUSY_SECONDS = 30


class Database:
    """One database of the catalogue, PostgreSQL (psycopg 3) or SQLite (WAL)."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.engine = _postgresql(url, pool_size) if make_url(url).get_backend_name() == "postgresql" else _sqlite(url)
        # SQLite takes its write lock at BEGIN: a read that turns into a write could not wait for it.
        self._writer = self.engine.execution_options(begin="IMMEDIATE")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, undone if it raises.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        with _translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
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


def _reason(error: DBAPIError) -> str:
    """The driver's first line: it names host and port, never the password."""
    return str(error.orig).strip().splitlines()[0][:200] if error.orig else type(error).__name__


def _postgresql(url: str, pool_size: int) -> Engine:
    return create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "application_name": "enginefarm"},
    )


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False})

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
