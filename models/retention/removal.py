"""Remove engines and checkpoints in two steps: mark them, and remove them when their grace is over.

An engine is served until it is removed. During its grace, a pin keeps it and a pull starts the grace again. A removal
leaves a row with its reason. The bytes are removed later and have a grace of their own: see models.retention.blob_gc.
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

_PULLED_SINCE_MARKED = EngineRow.pulled_at >= EngineRow.marked_for_removal_at


def mark(session: Session, candidates: Sequence[RemovalCandidate]) -> None:
    """Mark the candidates for removal. Unmark every other engine and checkpoint: a policy or a pin keeps it now.

    The grace of an engine that was pulled since it was marked starts again.
    """
    for table, kind in ((EngineRow, "engine"), (CheckpointRow, "checkpoint")):
        keys = [candidate.key for candidate in candidates if candidate.kind == kind]
        marked = table.marked_for_removal_at.is_not(None)
        session.execute(update(table).where(marked, table.key.not_in(keys)).values(marked_for_removal_at=None))
        to_mark: ColumnElement[bool] = table.marked_for_removal_at.is_(None)
        if table is EngineRow:
            # Checkpoints are not pulled.
            to_mark = or_(to_mark, _PULLED_SINCE_MARKED)
        session.execute(update(table).where(to_mark, table.key.in_(keys)).values(marked_for_removal_at=now()))


def due(session: Session, *, grace_seconds: float) -> set[str]:
    """The keys of engines and checkpoints that were marked at least `grace_seconds` ago."""
    keys: set[str] = set()
    for table in (EngineRow, CheckpointRow):
        marked_keys = select(table.key).where(table.marked_for_removal_at <= now(-grace_seconds))
        keys.update(session.execute(marked_keys).scalars())
    return keys


def remove(session: Session, candidate: RemovalCandidate, *, grace_seconds: float, removed_by: str | None) -> bool:
    """Remove an engine or checkpoint whose grace is over. Return False if it is in use, or was removed before."""
    table: type[EngineRow | CheckpointRow]
    if candidate.kind == "checkpoint":
        # Lock the convert action, as a submit does: otherwise a submit could find the checkpoint while this deletes it.
        lock_action(session, candidate.key)
        in_flight = (ActionRow.depends_on == candidate.key, ActionRow.state.in_(IN_FLIGHT))
        if session.execute(select(ActionRow.key).where(*in_flight).limit(1)).first() is not None:
            return False
        table = CheckpointRow
        removable = [table.key == candidate.key, table.marked_for_removal_at <= now(-grace_seconds)]
    else:
        table = EngineRow
        # The DELETE itself checks again: a pin or a pull may have come since the candidates were chosen.
        removable = [
            table.key == candidate.key,
            table.marked_for_removal_at <= now(-grace_seconds),
            EngineRow.pinned.is_(False),
            or_(EngineRow.pulled_at.is_(None), ~_PULLED_SINCE_MARKED),
        ]
    manifest = session.execute(delete(table).where(*removable).returning(table.manifest)).scalar_one_or_none()
    if manifest is None:
        return False
    session.add(
        RemovalRow(
            kind=candidate.kind,
            key=candidate.key,
            manifest=manifest,
            size=candidate.size,
            model=candidate.model,
            reason=candidate.reason,
            removed_by=removed_by,
        )
    )
    return True


def remove_manifests(session: Session) -> None:
    """Remove manifests without an engine or checkpoint, except those that are being published: these are locked."""
    used = or_(
        exists().where(EngineRow.manifest == ManifestRow.digest),
        exists().where(CheckpointRow.manifest == ManifestRow.digest),
    )
    unused = select(ManifestRow.digest).where(~used)
    locked = session.execute(unused.order_by(ManifestRow.digest).with_for_update(skip_locked=True)).scalars().all()
    # Again, now that they are locked: one may have been published between the first look and the lock.
    digests = session.execute(unused.where(ManifestRow.digest.in_(locked))).scalars().all()
    # Files first: they refer to their manifest.
    session.execute(delete(ManifestFileRow).where(ManifestFileRow.manifest.in_(digests)))
    session.execute(delete(ManifestRow).where(ManifestRow.digest.in_(digests)))


def request_removal(session: Session, key: str, reason: str) -> None:
    """Withdraw an engine, so that it is not served from now on, and mark it for removal.

    Raises:
        NotFound: there is no such engine.
        Conflict: it is pinned.
    """
    # Locked: a pin must not come between this look and the withdrawal.
    engine = session.execute(select(EngineRow).where(EngineRow.key == key).with_for_update()).scalar_one_or_none()
    if engine is None:
        raise NotFound(f"there is no engine {key!r}; GET /v1/engines lists the engines")
    if engine.pinned:
        raise Conflict(f"engine {key[:12]} is pinned: `enginefarm pin {key[:12]} --remove` first")
    withdraw_engine(session, key, reason)
    # A mark that a clean-up set before stays, with its earlier end of grace.
    unmarked = (EngineRow.key == key, EngineRow.marked_for_removal_at.is_(None))
    session.execute(update(EngineRow).where(*unmarked).values(marked_for_removal_at=now()))
