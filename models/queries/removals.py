"""Why engines were removed, and the list of removals. Reads only."""

from __future__ import annotations

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


def why_engine_is_missing(session: Session, key: str) -> Failure | None:
    """Why a build that succeeded has no engine now; None if no reason was recorded."""
    engine = session.get(EngineRow, key)
    if engine is not None:
        # Programs read the cause, so it keeps its first name.
        cause = "engine_taken_out"
        event = "withdrawn"
        reason = engine.quarantine_reason
    else:
        cause = "engine_removed"
        event = "removed"
        reason = why_removed(session, key)
    if reason is None:
        return None
    return Failure(
        cause=cause,
        fault=Fault.FARM,
        detail=f"its engine was {event}: {reason}",
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
