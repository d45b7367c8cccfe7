"""Write and read rows by the tables as they are in a database, whatever the code of today declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, MetaData, Table, select

from models.catalogue.clock import UtcDateTime

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # by table, in an order that foreign keys allow


def insert_rows(connection: Connection, rows_by_table: Rows) -> None:
    for name, rows in rows_by_table.items():
        table = _reflected(connection, name)
        for row in rows:
            connection.execute(table.insert().values(row))


def read_rows(connection: Connection, name: str, columns: set[str]) -> list[dict[str, Any]]:
    """The rows of a table, reduced to `columns`."""
    table = _reflected(connection, name)
    rows = connection.execute(select(*(table.c[column] for column in sorted(columns)))).mappings()
    return [dict(row) for row in rows]


def _reflected(connection: Connection, name: str) -> Table:
    """The table as it is in the database, with times read and written the catalogue's way."""
    table = Table(name, MetaData(), autoload_with=connection)
    for column in table.columns:
        if column.name.endswith(("_at", "_until")) or column.name == "not_before":
            column.type = UtcDateTime()
    return table
