"""Pin and unpin engines; garbage collection skips pinned ones."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.orm import Session

from models.catalogue.rows import EngineRow


def set_pin(session: Session, key: str, *, pinned: bool) -> None:
    """Pin or unpin an engine; a second call changes nothing.

    An unknown key changes nothing either: the caller reads the engine in the same transaction, and that read raises
    NotFound or Gone with the reason.
    """
    values: dict[str, object] = {"pinned": pinned}
    if pinned:
        values["marked_for_removal_at"] = None  # a pin also saves an engine that was marked for removal already
    session.execute(update(EngineRow).where(EngineRow.key == key).values(**values))
