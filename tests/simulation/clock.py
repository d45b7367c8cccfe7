"""The catalogue on SQLite in memory, a clock that a schedule moves, and commits that fail or lose their answer."""

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
    """The database's time: `now()` of the catalogue calls SQLite's `strftime`, which this clock replaces."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def strftime(self, form: str, _now: str, moved: str = "+0 seconds") -> str:
        shift = _SECONDS.fullmatch(moved)
        assert shift is not None, f"only models.catalogue.clock may ask for the time; {moved!r} is not its form"
        assert form == "%Y-%m-%d %H:%M:%f"
        return (self.time + timedelta(seconds=float(shift[1]))).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


class FaultyDatabase(Database):
    """A share `faults` of the transactions fails: half of them before the commit, half after it."""

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
        """Undo everything that is committed in the block."""
        engines = {name: value for name, value in vars(self).items() if isinstance(value, Engine) and name != "engine"}
        with self.engine.connect() as connection:
            outer = connection.begin()
            # Inside a savepoint, what SQLAlchemy calls a commit releases another savepoint and writes nothing.
            connection.begin_nested()
            vars(self).update(dict.fromkeys(engines, connection))
            try:
                yield
            finally:
                vars(self).update(engines)
                outer.rollback()

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        """Read what is committed. Plain sqlite3, because SQLAlchemy takes ten times as long here."""
        return self._connection.execute(question).fetchall()

    @property
    def changes(self) -> int:
        """How many rows were ever written: if the number is unchanged, the database is unchanged."""
        return self._connection.total_changes

    def copy(self) -> sqlite3.Connection:
        """A copy of the whole database."""
        copy = sqlite3.connect(":memory:")
        self._connection.backup(copy)
        return copy

    def restore(self, copy: sqlite3.Connection) -> None:
        copy.backup(self._connection)


class State:
    """The attributes of an object, to be restored later. Lists, dicts and sets are copied, their elements are not."""

    def __init__(self, instance: object) -> None:
        self._instance = instance
        self._values = {name: self._copied(value) for name, value in vars(instance).items()}

    def restore(self) -> None:
        vars(self._instance).update(self._values)

    @staticmethod
    def _copied(value: Any) -> Any:
        return value.copy() if isinstance(value, list | dict | set) else value
