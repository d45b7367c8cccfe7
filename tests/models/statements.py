"""Record the statements that a block sends to the database, with the number of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from models.catalogue.database import Database


@dataclass(frozen=True)
class Statement:
    text: str
    parameters: int  # of one execution, when it is executed for several rows


@contextmanager
def recorded_statements(database: Database) -> Iterator[list[Statement]]:
    recorded: list[Statement] = []

    def record(_connection: Any, _cursor: Any, text: str, parameters: Any, _context: Any, executemany: bool) -> None:
        # SQLAlchemy sends the rows of an INSERT in one statement, whose parameters then are one mapping.
        first = parameters[0] if executemany and isinstance(parameters, list) else parameters
        recorded.append(Statement(text, len(first)))

    event.listen(database.engine, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        event.remove(database.engine, "before_cursor_execute", record)
