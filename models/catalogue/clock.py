"""The database's clock and the type of its times.

Leases are compared on one clock only, the database's: the clocks of workers and APIs differ.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Float, TypeDecorator, literal
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite stores no time zone, so it is removed before a write and added after a read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone: the catalogue stores aware times only")
        in_utc = value.astimezone(UTC)
        if dialect.name == "postgresql":
            return in_utc
        return in_utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        # PostgreSQL returns times in the time zone of the session.
        return value.astimezone(UTC)


class now(FunctionElement[datetime]):  # noqa: N801  # reads as the SQL function that it is
    """The database's time, `seconds` from now; negative seconds are in the past.

    PostgreSQL's own now() is the start of the transaction; this is clock_timestamp(), which moves on within it.
    """

    type = UtcDateTime()
    inherit_cache = True  # the seconds are a parameter; without this SQLAlchemy compiles the statement at each use

    def __init__(self, seconds: float = 0) -> None:
        if seconds == 0:
            super().__init__()  # no clause: the plain time, without an addition in each statement
        else:
            super().__init__(literal(float(seconds), Float()))


@compiles(now, "postgresql")
def now_on_postgresql(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    if not len(element.clauses):
        return "clock_timestamp()"
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(now, "sqlite")
def now_on_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    # Six decimals, because SQLAlchemy writes a datetime so and SQLite compares times as text.
    shift = ""
    if len(element.clauses):
        shift = f", printf('%+.3f seconds', {compiler.process(element.clauses, **kw)})"
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now'{shift}) || '000')"
