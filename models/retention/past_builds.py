"""Remove builds that ended long ago, a batch at a time. See ADR 0025.

`next_batch` reads which builds of a batch go, so that a batch of which all stay needs no transaction that writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from models.catalogue.clock import now
from models.catalogue.rows import BuildRow, EngineRow
from models.catalogue.states import BuildRowState


@dataclass(frozen=True)
class Batch:
    """Some builds in the order of their `seq`: the last one examined, and those that are to be removed."""

    last: int
    removable: Sequence[int]


def next_batch(session: Session, *, days: float, after: int, size: int) -> Batch | None:
    """Examine the next `size` builds after the one with the `seq` `after`. None if no build that old follows.

    The last build of a key that has an engine stays: a recall submits it again.
    """
    # By `seq`, which grows with time: old builds come first, so that a run reads no new ones.
    page = select(BuildRow.seq, BuildRow.created_at, (BuildRow.created_at <= now(-days * 86400)).label("is_old"))
    rows = session.execute(page.where(BuildRow.seq > after).order_by(BuildRow.seq).limit(size)).all()
    if not rows or not rows[0].is_old:
        return None
    removable = select(BuildRow.seq).where(BuildRow.seq.between(rows[0].seq, rows[-1].seq), _is_past(days))
    return Batch(rows[-1].seq, session.execute(removable).scalars().all())


def remove(session: Session, builds: Sequence[int], *, days: float) -> int:
    """Remove those of these builds (by `seq`) that are still to be removed; returns how many were."""
    removed = session.execute(
        delete(BuildRow).where(BuildRow.seq.in_(builds), _is_past(days)).execution_options(synchronize_session=False)
    )
    return int(removed.rowcount)  # type: ignore[attr-defined]  # a DELETE returns a CursorResult


def _is_past(days: float) -> ColumnElement[bool]:
    newer = aliased(BuildRow)
    has_newer = exists().where(newer.key == BuildRow.key, newer.seq > BuildRow.seq)
    has_engine = exists().where(EngineRow.key == BuildRow.key)
    return and_(
        BuildRow.state != BuildRowState.OPEN,
        BuildRow.ended_at <= now(-days * 86400),
        or_(has_newer, ~has_engine),
    )
