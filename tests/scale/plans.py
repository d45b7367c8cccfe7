"""The statements that a call sends to PostgreSQL, and the plans by which they are executed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

# Tables that grow with the catalogue. The others have a row a worker, a key or a recall.
LARGE_TABLES = frozenset(
    {"actions", "attempts", "builds", "engines", "checkpoints", "manifests", "manifest_files", "blobs"}
)


@dataclass(frozen=True)
class Statement:
    text: str
    parameters: Any


@contextmanager
def statements_of(session: Session) -> Iterator[list[Statement]]:
    """The statements that the block sends, in order."""
    statements: list[Statement] = []
    connection = session.connection()

    def record(_connection: object, _cursor: object, text: str, parameters: Any, *_: object) -> None:
        statements.append(Statement(text, parameters))

    event.listen(connection, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(connection, "before_cursor_execute", record)


def plan_of(session: Session, statement: Statement, *, analyze: bool) -> dict[str, Any]:
    """The root node of the plan. With `analyze` the statement is executed: roll back what it writes."""
    options = "FORMAT JSON"
    if analyze:
        options += ", ANALYZE, BUFFERS"
    explain = f"EXPLAIN ({options}) {statement.text}"
    document = session.connection().exec_driver_sql(explain, statement.parameters).scalar_one()
    if isinstance(document, str):
        document = json.loads(document)
    return dict(document[0]["Plan"])


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The node and all nodes below it."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans_of_large_tables(plan: Mapping[str, Any]) -> list[str]:
    """The large tables that the plan reads from beginning to end, and the indexes of them that it reads completely."""
    scans = []
    for node in nodes(plan):
        if node.get("Relation Name") not in LARGE_TABLES:
            continue
        if node["Node Type"] == "Seq Scan":
            scans.append(f"Seq Scan of {node['Relation Name']}")
    return scans
