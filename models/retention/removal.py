"""Engines and checkpoints go in two steps: marked as doomed, and removed when their grace is over.

Until it is removed, an engine is served; whoever pins it or pulls it meanwhile keeps it. What is removed leaves a row
that says why. Its bytes are another matter, and another grace: see models.garbage.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import Conflict, NotFound
from enginefarm.wire.retention import RemovalCandidate
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, CheckpointRow, EngineRow, ManifestFileRow, ManifestRow, RemovalRow
from models.catalogue.states import IN_FLIGHT
from models.lifecycle.transitions import lock_action
from models.lifecycle.withdrawal import withdraw_engine

_PULLED_SINCE = EngineRow.pulled_at >= EngineRow.marked_for_removal_at


def mark(session: Session, going: Sequence[RemovalCandidate]) -> None:
    """Doom `going`, and spare what was doomed and is not among them: something keeps it now.

    The grace of an engine that was pulled since it was doomed begins anew.
    """
    for row, kind in ((EngineRow, "engine"), (CheckpointRow, "checkpoint")):
        keys = [found.key for found in going if found.kind == kind]
        unmarked: ColumnElement[bool] = row.marked_for_removal_at.is_(None)
        if row is EngineRow:
            unmarked = or_(unmarked, _PULLED_SINCE)
        session.execute(
            update(row)
            .where(row.marked_for_removal_at.is_not(None), row.key.not_in(keys))
            .values(marked_for_removal_at=None)
        )
        session.execute(update(row).where(unmarked, row.key.in_(keys)).values(marked_for_removal_at=now()))


def due(session: Session, *, grace_seconds: float) -> set[str]:
    """Keys of what was marked so long ago."""
    return {
        key
        for row in (EngineRow, CheckpointRow)
        for key in session.execute(select(row.key).where(row.marked_for_removal_at <= now(-grace_seconds))).scalars()
    }


def remove(session: Session, found: RemovalCandidate, *, grace_seconds: float, removed_by: str | None) -> bool:
    """Remove what was marked so long ago. False: it is kept by now, or gone."""
    if found.kind == "checkpoint":
        if not _lock_unwanted(session, found.key):
            return False
        row: type[EngineRow | CheckpointRow] = CheckpointRow
        which = [row.key == found.key, row.marked_for_removal_at <= now(-grace_seconds)]
    else:
        row = EngineRow
        unused = or_(EngineRow.pulled_at.is_(None), ~_PULLED_SINCE)
        which = [
            row.key == found.key,
            row.marked_for_removal_at <= now(-grace_seconds),
            EngineRow.pinned.is_(False),
            unused,
        ]
    manifest = session.execute(delete(row).where(*which).returning(row.manifest)).scalar_one_or_none()
    if manifest is None:
        return False
    session.add(
        RemovalRow(kind=found.kind, key=found.key, manifest=manifest, size=found.size, model=found.model,
                   reason=found.reason, removed_by=removed_by)
    )  # fmt: skip
    return True


def _lock_unwanted(session: Session, key: str) -> bool:
    """Hold the convert action, as a submit does before it looks for the checkpoint; False: a build starts from it."""
    lock_action(session, key)
    wanted = select(ActionRow.key).where(ActionRow.depends_on == key, ActionRow.state.in_(IN_FLIGHT)).limit(1)
    return session.execute(wanted).first() is None


def remove_manifests(session: Session) -> None:
    """Remove the manifests that no engine and no checkpoint has. One that is being published is held, and passed by."""
    used = or_(
        exists().where(EngineRow.manifest == ManifestRow.digest),
        exists().where(CheckpointRow.manifest == ManifestRow.digest),
    )
    unused = select(ManifestRow.digest).where(~used)
    held = session.execute(unused.order_by(ManifestRow.digest).with_for_update(skip_locked=True)).scalars().all()
    # Again, now that they are held: one may have been published between the look and the lock.
    digests = session.execute(unused.where(ManifestRow.digest.in_(held))).scalars().all()
    session.execute(delete(ManifestFileRow).where(ManifestFileRow.manifest.in_(digests)))
    session.execute(delete(ManifestRow).where(ManifestRow.digest.in_(digests)))


def request_removal(session: Session, key: str, reason: str) -> None:
    """Serve an engine no more from now on, and doom it.

    Raises:
        NotFound
        Conflict: it is pinned.
    """
    engine = session.execute(select(EngineRow).where(EngineRow.key == key).with_for_update()).scalar_one_or_none()
    if engine is None:
        raise NotFound(f"there is no engine {key!r}; GET /v1/engines lists what there is")
    if engine.pinned:
        raise Conflict(f"engine {key[:12]} is pinned: `enginefarm pin {key[:12]} --remove` first")
    withdraw_engine(session, key, reason)
    session.execute(
        update(EngineRow)
        .where(EngineRow.key == key, EngineRow.marked_for_removal_at.is_(None))
        .values(marked_for_removal_at=now())
    )
