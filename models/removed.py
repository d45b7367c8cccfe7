"""Why an engine that was there is there no more."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.rows import RemovalRow


def why_removed(session: Session, key: str) -> str | None:
    """The reason of the last removal of the engine; None if there was none. It may have been built since."""
    query = select(RemovalRow.reason).where(RemovalRow.kind == "engine", RemovalRow.key == key)
    return session.execute(query.order_by(RemovalRow.seq.desc()).limit(1)).scalar_one_or_none()
