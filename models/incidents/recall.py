"""Recall: a sick host or a bad release poisons every cache silently. What it built is taken out by where and when."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import toolchain_of
from enginefarm.wire.recall import Recall, WithdrawalResult
from models.catalogue.rows import ActionRow, AttemptRow, CheckpointRow, EngineRow, WorkerRow
from models.catalogue.states import ActionState, Outcome
from models.catalogue.visibility import SERVED, USABLE
from models.fleet.worker_control import quarantine, worker_ids
from models.lifecycle.transitions import end_attempt, requeue
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queue.names import Announcement


def recall(session: Session, wanted: Recall) -> tuple[WithdrawalResult, list[Announcement]]:
    """Take out all that matches, and every engine that was built from a checkpoint that does.

    A worker that is recalled is quarantined, and what runs there is queued again: it would publish more of the same.

    Raises:
        NotFound: there never was such a worker.
    """
    workers = worker_ids(session, wanted.worker) if wanted.worker is not None else []
    checkpoints = _matching(session, CheckpointRow, wanted, USABLE)
    _hold_converts(session, workers, checkpoints)
    announcements = _stop_running(session, workers)
    built = _matching(session, EngineRow, wanted, SERVED)
    engines = sorted({*built, *_built_from(session, checkpoints)})
    for key in checkpoints:
        announcements += withdraw_checkpoint(session, key, wanted.reason)
    taken = [key for key in engines if withdraw_engine(session, key, wanted.reason)]
    if wanted.worker is not None:
        quarantine(session, wanted.worker, wanted.reason)
    return WithdrawalResult(engines=taken, checkpoints=checkpoints, workers=workers), announcements


def _hold_converts(session: Session, workers: list[str], checkpoints: list[str]) -> None:
    """All that will be touched, before the first build is: see the lock order in models.actions."""
    running = _running_on(workers) & (ActionRow.stage == Stage.CONVERT)
    held = select(ActionRow.key).where(or_(ActionRow.key.in_(checkpoints), running))
    session.execute(held.order_by(ActionRow.key).with_for_update(key_share=True))


def _running_on(workers: list[str]) -> ColumnElement[bool]:
    return ActionRow.worker_id.in_(workers) & (ActionRow.state == ActionState.RUNNING)


def _stop_running(session: Session, workers: list[str]) -> list[Announcement]:
    running = select(ActionRow.key, ActionRow.attempt).where(_running_on(workers))
    announcements = []
    for row in session.execute(running.order_by(ActionRow.key).with_for_update(key_share=True)).all():
        announcements.append(requeue(session, row.key, attempt=row.attempt))
        end_attempt(session, row.key, row.attempt, Outcome.CANCELLED)
    return announcements


def _matching(
    session: Session, row: type[CheckpointRow | EngineRow], wanted: Recall, counts: ColumnElement[bool]
) -> list[str]:
    query = (
        select(row.key, ActionRow.work)
        .join(ActionRow, ActionRow.key == row.key)
        .join(AttemptRow, (AttemptRow.action_key == row.key) & (AttemptRow.number == row.attempt))
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(counts)
    )
    if wanted.worker is not None:
        query = query.where(or_(WorkerRow.id == wanted.worker, WorkerRow.name == wanted.worker))
    if wanted.since is not None:
        query = query.where(row.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(row.created_at < wanted.until)
    keys = []
    for key, work in session.execute(query.order_by(row.key)).all():
        toolchain = toolchain_of(work)
        if wanted.toolchain not in (None, toolchain.toolchain) or wanted.version not in (None, toolchain.version):
            continue
        keys.append(key)
    return keys


def _built_from(session: Session, checkpoints: list[str]) -> list[str]:
    query = select(EngineRow.key).join(ActionRow, ActionRow.key == EngineRow.key)
    return list(session.execute(query.where(SERVED, ActionRow.depends_on.in_(checkpoints))).scalars())
