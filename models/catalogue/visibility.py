"""Which engines and checkpoints count. Every reader asks here, so that none can serve what was taken out."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.catalogue.rows import CheckpointRow, EngineRow

SERVED = EngineRow.quarantined_at.is_(None)
USABLE = CheckpointRow.quarantined_at.is_(None)


def engine_exists(session: Session, key: str) -> bool:
    return session.execute(select(EngineRow.key).where(EngineRow.key == key, SERVED)).first() is not None


def checkpoint_of(session: Session, key: str) -> CheckpointRow | None:
    """The checkpoint that a build may start from."""
    return session.execute(select(CheckpointRow).where(CheckpointRow.key == key, USABLE)).scalar_one_or_none()
