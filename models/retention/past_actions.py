"""Remove actions, attempts and workers that nothing needs any more, a batch at a time. See ADR 0031.

An action is needed by a build, an engine, a checkpoint, an import, a lock of a GPU, or another action that starts from
it. Of an action that stays, old attempts without an output go. The blobs of their logs are garbage then.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.orm import Session, aliased

from models.catalogue.clock import now
from models.catalogue.ranges import KeyRange, lock_free_rows
from models.catalogue.rows import (
    ActionRow,
    AttemptRow,
    BuildRow,
    CheckpointRow,
    EngineRow,
    GpuLockRow,
    ImportRow,
    LogChunkRow,
    WorkerRow,
)
from models.catalogue.states import CLOSED, ActionState, Outcome, WorkerState

# The newest successes of each queue stay, whatever became of their engines: estimates read this many.
ESTIMATED_FROM = 20


@dataclass(frozen=True)
class Removed:
    """How many rows a transaction removed."""

    actions: int = 0
    attempts: int = 0


def removable_keys(session: Session, actions: KeyRange, *, days: float) -> list[str]:
    """The actions of a range that go, or of which attempts go."""
    in_range = actions.condition(ActionRow.key)
    whole = select(ActionRow.key).where(in_range, _is_past_action(days))
    attempts = select(AttemptRow.action_key).where(actions.condition(AttemptRow.action_key), _is_past_attempt(days))
    return sorted({*session.execute(whole).scalars(), *session.execute(attempts).scalars()})


def remove(session: Session, keys: list[str], *, days: float) -> Removed:
    """Remove those of these actions and of their attempts that nothing needs, with the pieces of their logs."""
    # With the strong lock, which nothing that refers to an action passes: what the next statements see stays true. An
    # action that others have locked is being used.
    locked = lock_free_rows(session, ActionRow.key, keys)
    whole = (
        session.execute(select(ActionRow.key).where(ActionRow.key.in_(locked), _is_past_action(days))).scalars().all()
    )
    goes = and_(AttemptRow.action_key.in_(locked), or_(AttemptRow.action_key.in_(whole), _is_past_attempt(days)))
    of_piece = (AttemptRow.action_key == LogChunkRow.action_key, AttemptRow.number == LogChunkRow.attempt)
    options = {"synchronize_session": False}
    pieces = delete(LogChunkRow).where(LogChunkRow.action_key.in_(locked), exists().where(*of_piece, goes))
    session.execute(pieces, execution_options=options)
    attempts = session.execute(delete(AttemptRow).where(goes), execution_options=options)
    session.execute(delete(ActionRow).where(ActionRow.key.in_(whole)), execution_options=options)
    return Removed(len(whole), attempts.rowcount)  # type: ignore[attr-defined]  # a DELETE returns a CursorResult


def remove_past_workers(session: Session, *, days: float, size: int) -> int:
    """Remove up to `size` workers that left long ago and that no attempt names; returns how many.

    A quarantine is by name, and its row is where a worker that starts again finds it: such a row stays.
    """
    past = select(WorkerRow.id).where(
        WorkerRow.state == WorkerState.GONE,
        WorkerRow.last_seen_at <= now(-days * 86400),
        WorkerRow.quarantined_at.is_(None),
        ~exists().where(AttemptRow.worker_id == WorkerRow.id),
        ~exists().where(ActionRow.worker_id == WorkerRow.id),
        ~exists().where(GpuLockRow.worker_id == WorkerRow.id),
    )
    ids = session.execute(past.limit(size)).scalars().all()
    locked = lock_free_rows(session, WorkerRow.id, ids)
    if not locked:
        return 0
    # The condition again: the worker may have reported, or an import may have named it.
    gone = past.where(WorkerRow.id.in_(locked))
    still_past = session.execute(gone).scalars().all()
    session.execute(
        delete(WorkerRow).where(WorkerRow.id.in_(still_past)), execution_options={"synchronize_session": False}
    )
    return len(still_past)


def _is_past_action(days: float) -> ColumnElement[bool]:
    old = now(-days * 86400)
    dependent = aliased(ActionRow)
    young = or_(AttemptRow.ended_at.is_(None), AttemptRow.ended_at > old)
    newer = aliased(ActionRow)
    last_estimated = (
        select(newer.queued_at)
        .where(newer.queue == ActionRow.queue, newer.state == ActionState.SUCCEEDED)
        .order_by(newer.queued_at.desc())
        .offset(ESTIMATED_FROM - 1)
        .limit(1)
        .scalar_subquery()
    )
    return and_(
        ActionRow.state.in_(CLOSED),
        ActionRow.queued_at <= old,
        ~exists().where(BuildRow.key == ActionRow.key),
        ~exists().where(EngineRow.key == ActionRow.key),
        ~exists().where(CheckpointRow.key == ActionRow.key),
        ~exists().where(dependent.depends_on == ActionRow.key),
        ~exists().where(ImportRow.action_key == ActionRow.key),
        ~exists().where(GpuLockRow.action_key == ActionRow.key),
        ~exists().where(AttemptRow.action_key == ActionRow.key, young),
        # No such time: the queue has fewer successes, and all of them stay.
        or_(ActionRow.state != ActionState.SUCCEEDED, ActionRow.queued_at < last_estimated),
    )


def _is_past_attempt(days: float) -> ColumnElement[bool]:
    """An old attempt without an output. One that succeeded stays with its action: provenance and recalls read it."""
    of_action = (EngineRow.key == AttemptRow.action_key, EngineRow.attempt == AttemptRow.number)
    of_convert = (CheckpointRow.key == AttemptRow.action_key, CheckpointRow.attempt == AttemptRow.number)
    locks = (GpuLockRow.action_key == AttemptRow.action_key, GpuLockRow.attempt == AttemptRow.number)
    imports = (ImportRow.action_key == AttemptRow.action_key, ImportRow.attempt == AttemptRow.number)
    return and_(
        AttemptRow.ended_at <= now(-days * 86400),
        AttemptRow.outcome != Outcome.SUCCEEDED,
        exists().where(ActionRow.key == AttemptRow.action_key, ActionRow.state.in_(CLOSED)),
        ~exists().where(*of_action),
        ~exists().where(*of_convert),
        ~exists().where(*locks),
        ~exists().where(*imports),
    )
