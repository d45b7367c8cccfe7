"""Recall: withdraw what a sick host or a bad release built, by where and when it was built."""

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
from models.lifecycle.revocations import revoke
from models.lifecycle.transitions import end_attempt, requeue
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queue.names import Announcement


def recall(session: Session, criteria: Recall) -> tuple[WithdrawalResult, list[Announcement]]:
    """Withdraw every engine and checkpoint that matches, and every engine that was built from such a checkpoint.

    A recalled worker is quarantined, and its running actions are queued again: it would publish more of the same.

    Raises:
        NotFound: there never was such a worker.
    """
    workers: list[str] = []
    if criteria.worker is not None:
        workers = worker_ids(session, criteria.worker)
    checkpoints = _matching(session, CheckpointRow, criteria, USABLE)
    running = ActionRow.worker_id.in_(workers) & (ActionRow.state == ActionState.RUNNING)
    # Lock all convert actions before the first build action: see the lock order in models.lifecycle.transitions.
    converts = or_(ActionRow.key.in_(checkpoints), running & (ActionRow.stage == Stage.CONVERT))
    session.execute(select(ActionRow.key).where(converts).order_by(ActionRow.key).with_for_update(key_share=True))
    announcements = []
    running_attempts = select(ActionRow.key, ActionRow.attempt).where(running).order_by(ActionRow.key)
    for row in session.execute(running_attempts.with_for_update(key_share=True)).all():
        announcements.append(requeue(session, row.key, attempt=row.attempt))
        end_attempt(session, row.key, row.attempt, Outcome.CANCELLED)
    matching_engines = _matching(session, EngineRow, criteria, SERVED)
    # Whatever was built from a bad checkpoint is bad too, wherever and whenever it was built.
    built_from = select(EngineRow.key).join(ActionRow, ActionRow.key == EngineRow.key)
    built_from = built_from.where(SERVED, ActionRow.depends_on.in_(checkpoints))
    engines = sorted({*matching_engines, *session.execute(built_from).scalars()})
    for key in checkpoints:
        announcements += withdraw_checkpoint(session, key, criteria.reason)
    withdrawn = [key for key in engines if withdraw_engine(session, key, criteria.reason)]
    revoke(session, withdrawn, criteria.reason)
    # Last: workers come after actions in the lock order.
    if criteria.worker is not None:
        quarantine(session, criteria.worker, criteria.reason)
    return WithdrawalResult(engines=withdrawn, checkpoints=checkpoints, workers=workers), announcements


def _matching(
    session: Session, row: type[CheckpointRow | EngineRow], criteria: Recall, visible: ColumnElement[bool]
) -> list[str]:
    """The keys of the rows that all given criteria fit, in order."""
    query = (
        select(row.key, ActionRow.work)
        .join(ActionRow, ActionRow.key == row.key)
        # The attempt that published the row: other attempts of the action may be of other workers.
        .join(AttemptRow, (AttemptRow.action_key == row.key) & (AttemptRow.number == row.attempt))
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(visible)
    )
    if criteria.worker is not None:
        query = query.where(or_(WorkerRow.id == criteria.worker, WorkerRow.name == criteria.worker))
    if criteria.since is not None:
        query = query.where(row.created_at >= criteria.since)
    if criteria.until is not None:
        query = query.where(row.created_at < criteria.until)
    # The toolchain is compared here and not in SQL: only enginefarm.contract.work reads inside an action's work.
    keys = []
    for key, work in session.execute(query.order_by(row.key)).all():
        toolchain = toolchain_of(work)
        fits_toolchain = criteria.toolchain in (None, toolchain.toolchain)
        if fits_toolchain and criteria.version in (None, toolchain.version):
            keys.append(key)
    return keys
