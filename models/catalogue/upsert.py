"""INSERT … ON CONFLICT, which PostgreSQL and SQLite spell alike but SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from models.catalogue.rows import Row


def insert_new(session: Session, row: type[Row], values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Insert what is not there yet; returns how many rows that were. Waits for a concurrent insert to end."""
    if not values:
        return 0
    statement = _insert(session, row).values(values).on_conflict_do_nothing()
    # Counted by what comes back: the drivers disagree on rowcount for an INSERT.
    return len(session.execute(statement.returning(*row.__table__.primary_key)).all())


def upsert(session: Session, row: type[Row], values: Mapping[str, Any]) -> None:
    """Insert, or replace every given column of the row with the same primary key."""
    keys = [column.name for column in row.__table__.primary_key]
    rest = {name: value for name, value in values.items() if name not in keys}
    session.execute(_insert(session, row).values(values).on_conflict_do_update(index_elements=keys, set_=rest))


def _insert(session: Session, row: type[Row]) -> postgresql.Insert:
    dialect = session.get_bind().dialect.name
    table = row.__table__
    assert isinstance(table, Table)
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)  # type: ignore[return-value]  # the same methods
