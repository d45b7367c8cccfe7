"""INSERT … ON CONFLICT, which PostgreSQL and SQLite spell alike but SQLAlchemy keeps in two dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from models.catalogue.rows import Row


def insert_new(session: Session, row: type[Row], values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
    """Insert the rows whose primary key is new; returns how many were.

    `values` are by attribute. A concurrent insert of the same key is waited for until its transaction ends.
    """
    if not values:
        return 0
    if isinstance(values, Mapping):
        # As a mapping, not a list of one: SQLAlchemy caches a statement of one row, but none with several.
        statement = _insert(session, row).values(_by_column(row, values))
    else:
        statement = _insert(session, row).values([_by_column(row, attributes) for attributes in values])
    statement = statement.on_conflict_do_nothing()
    # Count the returned keys: the drivers disagree on rowcount for an INSERT.
    return len(session.execute(statement.returning(*row.__table__.primary_key)).all())


def insert_new_keys(session: Session, row: type[Row], values: Sequence[Mapping[str, Any]], **same: Any) -> set[Any]:
    """Insert the rows whose primary key, of one column, is new, in this order; returns these keys.

    As `insert_new`, but for rows of the same attributes: their statement is compiled once, however many there are.
    `same` are attributes that all rows have alike; they may be SQL expressions.
    """
    statement = _insert(session, row).values(_by_column(row, same)).on_conflict_do_nothing()
    rows = [_by_column(row, attributes) for attributes in values]
    return set(session.execute(statement.returning(*row.__table__.primary_key), rows).scalars())


def upsert(session: Session, row: type[Row], values: Mapping[str, Any]) -> None:
    """Insert the row, or replace every given attribute of the row with the same primary key."""
    keys = [column.name for column in row.__table__.primary_key]
    columns = _by_column(row, values)
    replaced = {name: value for name, value in columns.items() if name not in keys}
    session.execute(_insert(session, row).values(columns).on_conflict_do_update(index_elements=keys, set_=replaced))


def _by_column(row: type[Row], values: Mapping[str, Any]) -> dict[str, Any]:
    """The dialects' INSERT takes names of columns, which differ from those of some attributes."""
    columns = inspect(row).columns
    return {columns[name].name: value for name, value in values.items()}


def _insert(session: Session, row: type[Row]) -> postgresql.Insert:
    table = row.__table__
    assert isinstance(table, Table)
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)  # type: ignore[return-value]  # it has the same methods
