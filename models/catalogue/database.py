"""Connections and transactions. A transaction opens and closes at the edge: a route, a task, a sweep."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pydantic_core import to_json
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util.queue import Queue

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database_outages import LOST_CONNECTION, READ_ONLY, Renewal, outage_of
from models.catalogue.database_url import parse_database_url
from models.catalogue.timestamps import BoundedTimestamptzLoader

_SQLITE_BUSY_SECONDS = 30  # one writer at a time: as long as several transactions of a busy farm may queue
POOL_SIZE = 7  # of one API process, which has two more: for cached submits, and to listen for changes
_KEPT_IDLE_SECONDS = 30.0  # then a connection to PostgreSQL that nothing used is given back
_PING_IDLE_SECONDS = 1.0  # a PostgreSQL connection that was idle for longer is pinged before use

# libpq parameters. The others say when a silent server counts as unreachable: TCP alone would wait 15 minutes.
_LIBPQ_DEFAULTS: dict[str, str | int] = {
    "application_name": "enginefarm",
    "client_encoding": "utf8",  # else that of the database or of PGCLIENTENCODING, which may lack a character
    "connect_timeout": 10,  # seconds
    "tcp_user_timeout": 15_000,  # milliseconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
}


class _ShrinkingPool(QueuePool):
    """Closes connections that nothing used for a while: a server has few, and other processes may need them.

    SQLAlchemy's own pool keeps as many as were ever used at once. Each return of a connection closes one at most, so a
    process that does nothing keeps what it has; but every process of the farm reports or sweeps all the time.
    """

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        assert isinstance(self._pool, Queue)
        with self._pool.mutex:
            # The pool is last in, first out, so that the first is the one that was unused for the longest time.
            idle = self._pool.queue
            if not idle or time.monotonic() - idle[0].info.get("returned_at", math.inf) < _KEPT_IDLE_SECONDS:
                return
            oldest = idle.popleft()
        oldest.close()
        self._dec_overflow()


class Database:
    """One database of the catalogue, PostgreSQL (psycopg 3) or SQLite (WAL).

    Everything works through a pooler that gives a connection to another client after each transaction: nothing of the
    farm outlives a transaction on the server, no prepared statement, no setting, no lock.

    Args:
        pool_size: connections to PostgreSQL at once, at most.
        kept: of these, those that stay open for the next use; an idle one is closed all the same after a while.

    Raises:
        ValueError: `url` is no URL of PostgreSQL or SQLite.
    """

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, kept: int = POOL_SIZE) -> None:
        parsed_url = parse_database_url(url)
        postgresql = parsed_url.get_backend_name() == "postgresql"
        self.engine = _postgresql(parsed_url, pool_size, min(kept, pool_size)) if postgresql else _sqlite(parsed_url)
        _translate_errors(self.engine)
        # SQLite must take its write lock at BEGIN: a transaction that reads first and then writes fails at once if
        # another writer came between, without waiting for it.
        self._writer = self.engine.execution_options(begin="IMMEDIATE")
        self._reader = self._snapshots = self.engine
        if postgresql:
            # READ COMMITTED gives each statement its own snapshot anyway, so a reader without locks saves the round
            # trips of BEGIN and COMMIT. SQLite has no round trips, and one snapshot for the transaction.
            self._reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            self._snapshots = self.engine.execution_options(isolation_level="REPEATABLE READ")
            # Named, because a database or an account may have another default, and its statements then fail at random.
            self._writer = self.engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed when the block ends, rolled back if it raises.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or could not run the transaction now.
        """
        with _pool_timeout_translated(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Statements that change nothing. On PostgreSQL each sees what was committed before it: see `snapshot`.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or could not run the transaction now.
        """
        with _pool_timeout_translated(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def single_statements(self) -> Iterator[Session]:
        """Each statement is a transaction of its own, committed when it ends. PostgreSQL only: it saves round trips.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or could not run the statement now.
        """
        assert self.engine.dialect.name == "postgresql"
        with _pool_timeout_translated(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """As `read`, but all statements see one state of the catalogue.

        Reading a build and its action needs it: another transaction may end both between two statements.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or could not run the transaction now.
        """
        with _pool_timeout_translated(), Session(self._snapshots, expire_on_commit=False) as session:
            yield session

    def connection_of_its_own(self) -> Connection:
        """A connection outside of the pool, in no transaction, that the caller must close.

        Raises:
            DatabaseUnavailable: the database cannot be reached, or has no connection left.
        """
        with _pool_timeout_translated():
            connection = self._reader.connect()
        connection.detach()
        return connection

    def ping(self) -> None:
        """Raises DatabaseUnavailable if the database does not answer, or is a standby, which takes no writes."""
        with self.read() as session:
            if self.engine.dialect.name == "sqlite":
                session.execute(text("SELECT 1"))
            elif session.scalar(text("SELECT current_setting('transaction_read_only')")) == "on":
                # After a failover new connections lead to the new primary, where the old ones do not.
                self.engine.dispose()
                error = psycopg.errors.ReadOnlySqlTransaction("transaction_read_only is on")
                raise DatabaseUnavailable(READ_ONLY.sentence(error, self.engine.url))

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _pool_timeout_translated() -> Iterator[None]:
    """Translate the one error that the pool raises and not the driver: see `_translate_errors` for the others."""
    try:
        yield
    except PoolTimeoutError as error:
        # Too much load, or statements that hang in the database.
        raise DatabaseUnavailable(
            "every connection of this process to the catalogue's database was in use for too long; try again"
        ) from error


def _translate_errors(engine: Engine) -> None:
    """Raise DatabaseUnavailable in place of the driver's error, whatever uses the engine, migrations included.

    Nothing is repeated here: a transaction is a block of the caller's, which only the caller can run again.
    """

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> DatabaseUnavailable | None:
        error = context.original_exception
        outage = outage_of(error, connecting=context.connection is None)
        if outage is None and context.is_disconnect:
            outage = LOST_CONNECTION
        if outage is None:
            return None
        if outage.renewal is not Renewal.NONE and not context.is_disconnect:
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = outage.renewal is Renewal.ALL
        return DatabaseUnavailable(outage.sentence(error, engine.url))


def _json(value: Any) -> str:
    return to_json(value).decode()  # ten times as fast as the standard library's json


def _postgresql(url: URL, pool_size: int, kept: int) -> Engine:
    # Arguments come before options in the URL, so an option that an operator chose is left out here.
    defaults = {name: value for name, value in _LIBPQ_DEFAULTS.items() if name not in url.query}
    # `prepare_threshold=None`: psycopg would prepare a statement that it runs for the sixth time, and find it missing,
    # or there already, when a pooler gives it another connection of the server. It costs below 5 % of a transaction.
    engine = create_engine(
        url,
        poolclass=_ShrinkingPool,
        pool_size=kept,
        max_overflow=pool_size - kept,
        pool_use_lifo=True,  # so that those which are not needed stay unused
        json_serializer=_json,
        connect_args={"prepare_threshold": None, **defaults},
    )

    @event.listens_for(engine, "connect")
    def read_every_time(connection: psycopg.Connection, _record: Any) -> None:
        connection.adapters.register_loader("timestamptz", BoundedTimestamptzLoader)

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
            except psycopg.Error as error:
                raise InvalidatePoolError from error  # SQLAlchemy then opens a new connection

    return engine


def _sqlite(url: URL) -> Engine:
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
