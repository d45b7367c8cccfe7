"""INSERT … ON CONFLICT, which PostgreSQL and SQLite spell alike but SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from models.catalogue.rows import Row


def insert_new(session: Session, row: type[Row], values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Insert what is not there yet; returns how many rows that were. Waits for a concurrent insert to end."""
    if not values:
        return 0
    rows = [values] if isinstance(values, Mapping) else values
    statement = _insert(session, row).values([_by_column(row, each) for each in rows]).on_conflict_do_nothing()
    # Counted by what comes back: the drivers disagree on rowcount for an INSERT.
    return len(session.execute(statement.returning(*row.__table__.primary_key)).all())


def upsert(session: Session, row: type[Row], values: Mapping[str, Any]) -> None:
    """Insert, or replace every given column of the row with the same primary key."""
    keys = [column.name for column in row.__table__.primary_key]
    columns = _by_column(row, values)
    rest = {name: value for name, value in columns.items() if name not in keys}
    session.execute(_insert(session, row).values(columns).on_conflict_do_update(index_elements=keys, set_=rest))


def _by_column(row: type[Row], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` by the names of columns: an attribute may be named otherwise than its column."""
    columns = inspect(row).columns
    return {columns[name].name: value for name, value in values.items()}


def _insert(session: Session, row: type[Row]) -> postgresql.Insert:
    dialect = session.get_bind().dialect.name
    table = row.__table__
    assert isinstance(table, Table)
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)  # type: ignore[return-value]  # the same methods
