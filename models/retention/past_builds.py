"""Remove builds that ended long ago, a batch at a time. See ADR 0025."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from models.catalogue.clock import now
from models.catalogue.rows import BuildRow, EngineRow
from models.catalogue.states import BuildRowState


@dataclass(frozen=True)
class Batch:
    """What one transaction did: the number of builds that it removed, and the last one that it examined."""

    removed: int
    last: int  # its `seq`


def remove_past_builds(session: Session, *, days: float, after: int, size: int) -> Batch | None:
    """Remove those of the next `size` builds after the one with the `seq` `after` that ended `days` ago.

    The last build of a key that has an engine stays: a recall submits it again. None if no old build follows.
    """
    # By `seq`, which grows with time: old builds come first, so that a run reads no new ones.
    page = select(BuildRow.seq, BuildRow.created_at, (BuildRow.created_at <= now(-days * 86400)).label("is_old"))
    rows = session.execute(page.where(BuildRow.seq > after).order_by(BuildRow.seq).limit(size)).all()
    if not rows or not rows[0].is_old:
        return None
    newer = aliased(BuildRow)
    has_newer = exists().where(newer.key == BuildRow.key, newer.seq > BuildRow.seq)
    has_engine = exists().where(EngineRow.key == BuildRow.key)
    removed = session.execute(
        delete(BuildRow)
        .where(
            BuildRow.seq.between(rows[0].seq, rows[-1].seq),
            BuildRow.state != BuildRowState.OPEN,
            BuildRow.ended_at <= now(-days * 86400),
            or_(has_newer, ~has_engine),
        )
        .execution_options(synchronize_session=False)
    )
    return Batch(removed.rowcount, rows[-1].seq)  # type: ignore[attr-defined]  # a DELETE returns a CursorResult
