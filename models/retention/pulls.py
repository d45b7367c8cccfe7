"""Record when engines were pulled: the API issues links to their files, and a pulled engine is kept for a while."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import EngineRow, ManifestFileRow
from models.catalogue.visibility import SERVED
from models.retention.policies import LINKS_NOTED_SECONDS

_NOT_NOTED_RECENTLY = or_(EngineRow.pulled_at.is_(None), EngineRow.pulled_at < now(-LINKS_NOTED_SECONDS))


def without_recent_pull(session: Session, keys: Collection[str]) -> list[str]:
    """The engines of `keys` whose last noted pull is more than a minute old.

    Only these need a write: an engine of a thousand files is noted once, not a thousand times.
    """
    return list(session.execute(select(EngineRow.key).where(EngineRow.key.in_(keys), _NOT_NOTED_RECENTLY)).scalars())


def engines_with_file(session: Session, digest: str, *, limit: int) -> list[str]:
    """`limit` of the engines that have this file, at most: a link to it may be for any of them, and one keeps it."""
    query = select(EngineRow.key).join(ManifestFileRow, ManifestFileRow.manifest == EngineRow.manifest)
    keys = session.execute(query.where(ManifestFileRow.blob == digest, SERVED).limit(limit)).scalars()
    return sorted(set(keys))  # an engine may have the file under two paths


def record_pull(session: Session, keys: Collection[str]) -> bool:
    """Record a pull of the engines, before a link is issued. False if one of them was removed meanwhile."""
    # Fewer rows than keys: one engine is gone, and a link to its files would soon lead nowhere.
    result = session.execute(update(EngineRow).where(EngineRow.key.in_(keys)).values(pulled_at=now()))
    return bool(result.rowcount == len(keys))  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
