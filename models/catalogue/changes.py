"""Hear that another transaction has changed an action, a build or a log, without asking for each of them.

A change that is heard is a hint: the catalogue is the truth, and a lost hint must cost no more than a delay. So whoever
listens also looks into the catalogue after `look_seconds` without a hint.

- PostgreSQL: triggers notify (migration 0012), and `NotifiedChanges` listens with one connection.
- PostgreSQL behind a pooler that gives connections away after a transaction: LISTEN does not work there.
- SQLite: `CountedChanges` asks for the counter of commits, which is read from shared memory.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import psycopg
from sqlalchemy import Connection, text

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.catalogue.database_outages import LOST_CONNECTION, outage_of

ACTIONS_CHANNEL = "enginefarm_actions"  # as in migration 0012
LOGS_CHANNEL = "enginefarm_logs"

_COUNT_SECONDS = 0.05  # between two looks at the counter of SQLite


@dataclass(frozen=True)
class Changes:
    """The keys of actions that changed, or whose builds did; and of actions whose logs grew. None: any may have."""

    actions: Collection[str] | None = ()
    logs: Collection[str] | None = ()

    def __bool__(self) -> bool:
        return self.actions is None or self.logs is None or bool(self.actions or self.logs)


ANY_CHANGE = Changes(None, None)


class NotifiedChanges:
    """Listens on PostgreSQL. Its connection is in no transaction while it waits."""

    look_seconds = 2.0  # a notification is lost only with the connection, and `wait` raises then

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._driver = cast(psycopg.Connection, connection.connection.dbapi_connection)
        for channel in (ACTIONS_CHANNEL, LOGS_CHANNEL):
            connection.execute(text(f"LISTEN {channel}"))

    def wait(self, seconds: float) -> Changes:
        """What was notified since the last call; waits for the first notification for `seconds` at most.

        Raises:
            DatabaseUnavailable: the connection is lost, and what was notified meanwhile with it.
        """
        keys: dict[str, set[str]] = {ACTIONS_CHANNEL: set(), LOGS_CHANNEL: set()}
        try:
            for notification in self._driver.notifies(timeout=seconds, stop_after=1):
                keys[notification.channel].add(notification.payload)
        except psycopg.Error as error:
            outage = outage_of(error, connecting=False) or LOST_CONNECTION
            raise DatabaseUnavailable(outage.sentence(error, self._connection.engine.url)) from error
        return Changes(keys[ACTIONS_CHANNEL], keys[LOGS_CHANNEL])

    def close(self) -> None:
        with suppress(DatabaseUnavailable):  # it may be lost already
            self._connection.close()
        self._driver.close()


class CountedChanges:
    """Asks SQLite for its `data_version`, which changes when another connection commits."""

    look_seconds = 2.0

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._version = self._data_version()

    def wait(self, seconds: float) -> Changes:
        """`ANY_CHANGE` as soon as something was committed since the last call; no change after `seconds`.

        Raises:
            DatabaseUnavailable: the file cannot be read.
        """
        deadline = time.monotonic() + seconds
        while True:
            version = self._data_version()
            if version != self._version:
                self._version = version
                return ANY_CHANGE
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0:
                return Changes()
            time.sleep(min(_COUNT_SECONDS, seconds_left))

    def close(self) -> None:
        self._connection.close()

    def _data_version(self) -> int:
        # Without a transaction, in which the version would stay the same.
        driver = cast(sqlite3.Connection, self._connection.connection.dbapi_connection)
        try:
            [version] = driver.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            outage = outage_of(error, connecting=True) or LOST_CONNECTION
            raise DatabaseUnavailable(outage.sentence(error, self._connection.engine.url)) from error
        return int(version)


def listen_for_changes(database: Database) -> NotifiedChanges | CountedChanges | None:
    """Begin to listen, with a connection outside of the pool that `close` closes.

    None: a pooler is in between and gives the connection away after each transaction, so that LISTEN has no effect.

    Raises:
        DatabaseUnavailable: the database cannot be reached, or has no connection left.
    """
    connection = database.connection_of_its_own()
    try:
        if database.engine.dialect.name == "sqlite":
            return CountedChanges(connection)
        # A pooler answers with a process id of its own when it is connected to. One that keeps a connection for the
        # whole session looks the same, and is treated the same.
        driver = cast(psycopg.Connection, connection.connection.dbapi_connection)
        if connection.scalar(text("SELECT pg_backend_pid()")) == driver.info.backend_pid:
            return NotifiedChanges(connection)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None
