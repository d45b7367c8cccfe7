"""The catalogue on SQLite in memory, with a clock that a schedule moves and commits whose answers get lost."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.catalogue.rows import Row

_SECONDS = re.compile(r"([+-][0-9.]+) seconds")


class Clock:
    """The database's time: `models.clock.now` asks SQLite's `strftime`, which each connection has replaced by this."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def strftime(self, form: str, _now: str, moved: str = "+0 seconds") -> str:
        found = _SECONDS.fullmatch(moved)
        assert found is not None, f"only models.catalogue.clock asks for the time, not in the form {moved!r}"
        assert form == "%Y-%m-%d %H:%M:%f"
        return (self.time + timedelta(seconds=float(found[1]))).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


class FaultyDatabase(Database):
    """With `faults`, some transactions are refused before the commit, and some are done but not answered."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("sqlite://")
        self.random = random.Random(0)
        self.faults = 0.0

        @event.listens_for(self.engine, "connect")
        def _our_time(connection: Any, _record: Any) -> None:
            connection.create_function("strftime", -1, clock.strftime)
            self._connection: sqlite3.Connection = connection  # there is one: the database is in memory

        Row.metadata.create_all(self.engine)

    @contextmanager
    def write(self) -> Iterator[Session]:
        chance = self.random.random()
        with super().write() as session:
            yield session
            if chance < self.faults / 2:
                raise DatabaseUnavailable("simulated: away before the commit")
        if self.faults / 2 <= chance < self.faults:
            raise DatabaseUnavailable("simulated: away after the commit")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Nothing that is committed in the block stays."""
        engines = {name: value for name, value in vars(self).items() if isinstance(value, Engine) and name != "engine"}
        with self.engine.connect() as connection:
            whole = connection.begin()
            connection.begin_nested()  # inside of one, what SQLAlchemy calls a commit is the end of another
            vars(self).update(dict.fromkeys(engines, connection))
            try:
                yield
            finally:
                vars(self).update(engines)
                whole.rollback()

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """What has been committed, without the detour that takes ten times as long as SQLite."""
        return self._connection.execute(question).fetchall()

    @property
    def changes(self) -> int:
        """Rows ever written; as long as it stays, all stays."""
        return self._connection.total_changes

    def copy(self) -> sqlite3.Connection:
        """All that is in it, now."""
        made = sqlite3.connect(":memory:")
        self._connection.backup(made)
        return made

    def restore(self, copy: sqlite3.Connection) -> None:
        copy.backup(self._connection)


class State:
    """What an object is now; containers that it has are copied, and what they contain is not."""

    def __init__(self, thing: object) -> None:
        self._thing = thing
        self._values = {name: self._copied(value) for name, value in vars(thing).items()}

    def restore(self) -> None:
        vars(self._thing).update(self._values)

    @staticmethod
    def _copied(value: Any) -> Any:
        return value.copy() if isinstance(value, list | dict | set) else value
