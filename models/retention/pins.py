"""Pinned engines stay, whatever clears the catalogue up."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import EngineSummary
from models.catalogue.rows import EngineRow
from models.queries.engines import get_engine


def set_pin(session: Session, key: str, *, pinned: bool) -> EngineSummary:
    """Pin or unpin; doing it again changes nothing.

    Raises:
        NotFound
    """
    spared = {"doomed_at": None} if pinned else {}
    session.execute(update(EngineRow).where(EngineRow.key == key).values(pinned=pinned, **spared))
    return EngineSummary(**get_engine(session, key).model_dump(include=set(EngineSummary.model_fields)))
