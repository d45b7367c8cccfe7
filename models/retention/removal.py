"""Remove engines and checkpoints in two steps: mark them, and remove them when their grace is over.

An engine is served until it is removed. During its grace, a pin keeps it and a pull starts the grace again. A removal
leaves a row with its reason. The bytes are removed later and have a grace of their own: see models.retention.blob_gc.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import Conflict, NotFound
from enginefarm.wire.retention import RemovalCandidate
from models.catalogue.clock import now
from models.catalogue.ranges import KeyRange, lock_free_rows
from models.catalogue.rows import ActionRow, CheckpointRow, EngineRow, ManifestFileRow, ManifestRow, RemovalRow
from models.catalogue.states import IN_FLIGHT
from models.lifecycle.withdrawal import withdraw_engine
from models.retention.policies import Batch

_PULLED_SINCE_MARKED = EngineRow.pulled_at >= EngineRow.marked_for_removal_at


def is_marked(table: type[EngineRow | CheckpointRow]) -> ColumnElement[bool]:
    """For a WHERE clause: the row is marked for removal."""
    return table.marked_for_removal_at.is_not(None)


def mark(session: Session, batch: Batch) -> None:
    """Mark the candidates of a batch for removal, and unmark what a policy or a pin keeps now.

    The grace of an engine that was pulled since it was marked starts again. What was published after the decision is
    not marked.
    """
    table = batch.table
    to_mark: ColumnElement[bool] = table.marked_for_removal_at.is_(None)
    if table is EngineRow:
        # Checkpoints are neither pulled nor pinned.
        to_mark = or_(to_mark, _PULLED_SINCE_MARKED) & EngineRow.pinned.is_(False)
    keys = lock_free_rows(session, table.key, [candidate.key for candidate in batch.candidates])
    session.execute(
        update(table)
        .where(table.key.in_(keys), table.created_at <= batch.decided_at, to_mark)
        .values(marked_for_removal_at=now())
    )
    unmarked = lock_free_rows(session, table.key, batch.wrongly_marked)
    if unmarked:
        session.execute(update(table).where(table.key.in_(unmarked)).values(marked_for_removal_at=None))


def remove(
    session: Session, candidates: Sequence[RemovalCandidate], *, grace_seconds: float, removed_by: str | None
) -> set[str]:
    """Remove engines or checkpoints, one kind, whose grace is over; returns the keys of those that were removed.

    The others are in use, are locked by somebody at this moment, or were removed before.
    """
    if not candidates:
        return set()
    by_key = {candidate.key: candidate for candidate in candidates}
    table: type[EngineRow | CheckpointRow] = EngineRow
    keys: Collection[str] = by_key
    if candidates[0].kind == "checkpoint":
        table = CheckpointRow
        keys = _without_builds_in_flight(session, by_key)
    removable = [
        table.key.in_(lock_free_rows(session, table.key, keys)),
        table.marked_for_removal_at <= now(-grace_seconds),
    ]
    if table is EngineRow:
        # The DELETE itself checks again: a pin or a pull may have come since the candidates were chosen.
        removable += [EngineRow.pinned.is_(False), or_(EngineRow.pulled_at.is_(None), ~_PULLED_SINCE_MARKED)]
    removed = session.execute(delete(table).where(*removable).returning(table.key, table.manifest)).all()
    manifests = {row.key: row.manifest for row in removed}
    for key, candidate in by_key.items():
        if key in manifests:
            session.add(
                RemovalRow(
                    kind=candidate.kind,
                    key=key,
                    manifest=manifests[key],
                    size=candidate.size,
                    model=candidate.model,
                    reason=candidate.reason,
                    removed_by=removed_by,
                )
            )
    return set(manifests)


def _without_builds_in_flight(session: Session, keys: Collection[str]) -> list[str]:
    """Lock the convert actions with these keys, and return those that no action in flight depends on.

    A submit takes the same lock before it looks for the checkpoint: otherwise it could find one that is deleted now.
    """
    locked = lock_free_rows(session, ActionRow.key, keys, key_share=True)
    in_flight = select(ActionRow.depends_on).where(ActionRow.depends_on.in_(locked), ActionRow.state.in_(IN_FLIGHT))
    needed = set(session.execute(in_flight).scalars())
    return [key for key in locked if key not in needed]


_MANIFEST_IS_USED = or_(
    exists().where(EngineRow.manifest == ManifestRow.digest),
    exists().where(CheckpointRow.manifest == ManifestRow.digest),
)


def unused_manifests(session: Session, manifests: KeyRange) -> list[str]:
    """The manifests of a range that no engine or checkpoint has."""
    query = select(ManifestRow.digest).where(manifests.condition(ManifestRow.digest), ~_MANIFEST_IS_USED)
    return list(session.execute(query).scalars())


def remove_manifests(session: Session, digests: Collection[str]) -> None:
    """Remove those that no engine or checkpoint has, except those that are being published: these are locked."""
    locked = lock_free_rows(session, ManifestRow.digest, digests)
    # Again, now that they are locked: one may have been published between the first look and the lock.
    unused = select(ManifestRow.digest).where(ManifestRow.digest.in_(locked), ~_MANIFEST_IS_USED)
    removed = session.execute(unused).scalars().all()
    # Files first: they refer to their manifest.
    session.execute(delete(ManifestFileRow).where(ManifestFileRow.manifest.in_(removed)))
    session.execute(delete(ManifestRow).where(ManifestRow.digest.in_(removed)))


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
