"""Which engines and checkpoints count. Every reader uses these conditions, so none serves a withdrawn engine."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.catalogue.rows import CheckpointRow, EngineRow

SERVED = EngineRow.quarantined_at.is_(None)
USABLE = CheckpointRow.quarantined_at.is_(None)


def engine_exists(session: Session, key: str) -> bool:
    """True if an engine of this key is published and not withdrawn."""
    return session.execute(select(EngineRow.key).where(EngineRow.key == key, SERVED)).first() is not None


def checkpoint_of(session: Session, key: str) -> CheckpointRow | None:
    """The checkpoint that a build may start from; None if there is none, or it was withdrawn."""
    return session.execute(select(CheckpointRow).where(CheckpointRow.key == key, USABLE)).scalar_one_or_none()


def served_engines(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that have an engine which is not withdrawn."""
    if not keys:
        return set()
    return set(session.execute(select(EngineRow.key).where(EngineRow.key.in_(keys), SERVED)).scalars())


def usable_checkpoints(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that have a checkpoint which a build may start from."""
    if not keys:
        return set()
    return set(session.execute(select(CheckpointRow.key).where(CheckpointRow.key.in_(keys), USABLE)).scalars())
