"""Why engines were removed, and the list of removals. Reads only."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import Failure, Fault
from enginefarm.wire.retention import Removal, RemovalPage
from models.catalogue.pagination import from_cursor, next_cursor
from models.catalogue.rows import EngineRow, RemovalRow


def why_removed(session: Session, key: str) -> str | None:
    """The reason of the last removal of the engine; None if it never was. It may have been built again since."""
    # The last: an engine may be built again and removed again.
    query = select(RemovalRow.reason).where(RemovalRow.kind == "engine", RemovalRow.key == key)
    return session.execute(query.order_by(RemovalRow.seq.desc()).limit(1)).scalar_one_or_none()


def why_engines_are_missing(session: Session, keys: Collection[str]) -> dict[str, Failure]:
    """Why builds that succeeded have no engine now, by key; without those for which no reason was recorded."""
    # Engines are rarely withdrawn or removed: save the round trips.
    if not keys:
        return {}
    failures: dict[str, Failure] = {}
    withdrawn = select(EngineRow.key, EngineRow.quarantine_reason).where(EngineRow.key.in_(keys))
    for key, reason in session.execute(withdrawn):
        # Programs read the cause, so it keeps its first name.
        if reason is not None:
            failures[key] = _engine_is_missing("engine_taken_out", f"withdrawn: {reason}")
        keys = set(keys) - {key}
    removed = select(RemovalRow.key, RemovalRow.reason).where(RemovalRow.kind == "engine", RemovalRow.key.in_(keys))
    # The last removal counts, and comes last.
    for key, reason in session.execute(removed.order_by(RemovalRow.seq)):
        failures[key] = _engine_is_missing("engine_removed", f"removed: {reason}")
    return failures


def _engine_is_missing(cause: str, what_happened: str) -> Failure:
    return Failure(
        cause=cause,
        fault=Fault.FARM,
        detail=f"its engine was {what_happened}",
        advice="submit it again: it is built anew",
    )


def removals(session: Session, *, limit: int, cursor: str | None) -> RemovalPage:
    """The removals, newest first.

    Raises:
        InvalidRequest: the cursor is none of this farm.
    """
    query = select(RemovalRow).order_by(RemovalRow.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(RemovalRow.seq < from_cursor(cursor))
    rows = session.execute(query).scalars().all()
    items = [
        Removal(
            kind=row.kind,
            key=row.key,
            model=row.model,
            manifest=row.manifest,
            size=row.size,
            reason=row.reason,
            by=row.removed_by,
            at=row.removed_at,
        )
        for row in rows[:limit]
    ]
    return RemovalPage(items=items, next_cursor=next_cursor(rows, limit))
