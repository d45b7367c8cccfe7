"""When engines were last pulled: links to their files are given out, and that keeps them for a while."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import EngineRow, ManifestFileRow
from models.retention.policies import LINKS_NOTED_SECONDS

_UNNOTED = or_(EngineRow.pulled_at.is_(None), EngineRow.pulled_at < now(-LINKS_NOTED_SECONDS))


def without_recent_pull(session: Session, keys: Collection[str]) -> list[str]:
    """Those of `keys` whose last noted pull is more than a minute ago: an engine of many files is noted once."""
    return list(session.execute(select(EngineRow.key).where(EngineRow.key.in_(keys), _UNNOTED)).scalars())


def engines_with_file(session: Session, digest: str) -> list[str]:
    """The engines that have this file: a link to it may be for any of them."""
    query = select(EngineRow.key).join(ManifestFileRow, ManifestFileRow.manifest == EngineRow.manifest)
    return sorted(session.execute(query.where(ManifestFileRow.blob == digest).distinct()).scalars())


def record_pull(session: Session, keys: Collection[str]) -> bool:
    """Before the link is given out. False: an engine was removed meanwhile."""
    done = session.execute(update(EngineRow).where(EngineRow.key.in_(keys)).values(pulled_at=now()))
    return bool(done.rowcount == len(keys))  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
