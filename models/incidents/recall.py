"""Recall: withdraw what a sick host or a bad release built, by where and when it was built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import toolchain_of
from enginefarm.wire.recall import Layout, Recall, WithdrawalResult
from models.catalogue.rows import ActionRow, AttemptRow, CheckpointRow, EngineRow, WorkerRow
from models.catalogue.states import ActionState, Outcome
from models.catalogue.visibility import SERVED, USABLE
from models.fleet.worker_control import quarantine, worker_ids
from models.lifecycle.conversions import names_no_sm, sms_of_conversions
from models.lifecycle.revocations import revoke
from models.lifecycle.transitions import end_attempt, requeue
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queue.names import Announcement

# Whether a toolchain lays the weights out for one SM: asked with the stored work of the action that made an engine or a
# checkpoint, and the engine's spec, which is all that is known of an imported one.
LaidOutForSm = Callable[[dict[str, Any], dict[str, Any] | None], bool]


def recall(
    session: Session, criteria: Recall, laid_out_for_sm: LaidOutForSm | None = None
) -> tuple[WithdrawalResult, list[Announcement]]:
    """Withdraw every engine and checkpoint that matches, and every engine that was built from such a checkpoint.

    A recalled worker is quarantined, and its running actions are queued again: it would publish more of the same. A dry
    run changes nothing. `laid_out_for_sm` is needed for criteria with a layout.

    Raises:
        NotFound: there never was such a worker.
    """
    workers: list[str] = []
    if criteria.worker is not None:
        workers = worker_ids(session, criteria.worker)
    checkpoints: list[str] = []
    # The checkpoint of an engine with another SM is right for engines of the SM that it was converted on, so it stays.
    if criteria.layout != "other_sm":
        checkpoints = _matching(session, CheckpointRow, criteria, USABLE, laid_out_for_sm)
    running = ActionRow.worker_id.in_(workers) & (ActionRow.state == ActionState.RUNNING)
    # Lock all convert actions before the first build action: see the lock order in models.lifecycle.transitions.
    converts = or_(ActionRow.key.in_(checkpoints), running & (ActionRow.stage == Stage.CONVERT))
    session.execute(select(ActionRow.key).where(converts).order_by(ActionRow.key).with_for_update(key_share=True))
    announcements = []
    running_attempts = select(ActionRow.key, ActionRow.attempt).where(running).order_by(ActionRow.key)
    for row in session.execute(running_attempts.with_for_update(key_share=True)).all():
        if criteria.dry_run:
            continue
        announcements.append(requeue(session, row.key, attempt=row.attempt))
        end_attempt(session, row.key, row.attempt, Outcome.CANCELLED)
    matching_engines = _matching(session, EngineRow, criteria, SERVED, laid_out_for_sm)
    # Whatever was built from a bad checkpoint is bad too, wherever and whenever it was built.
    built_from = select(EngineRow.key).join(ActionRow, ActionRow.key == EngineRow.key)
    built_from = built_from.where(SERVED, ActionRow.depends_on.in_(checkpoints))
    engines = sorted({*matching_engines, *session.execute(built_from).scalars()})
    if criteria.dry_run:
        return WithdrawalResult(engines=engines, checkpoints=checkpoints, workers=workers), []
    for key in checkpoints:
        announcements += withdraw_checkpoint(session, key, criteria.reason)
    withdrawn = [key for key in engines if withdraw_engine(session, key, criteria.reason)]
    revoke(session, withdrawn, criteria.reason)
    # Last: workers come after actions in the lock order.
    if criteria.worker is not None:
        quarantine(session, criteria.worker, criteria.reason)
    return WithdrawalResult(engines=withdrawn, checkpoints=checkpoints, workers=workers), announcements


def _matching(
    session: Session,
    row: type[CheckpointRow | EngineRow],
    criteria: Recall,
    visible: ColumnElement[bool],
    laid_out_for_sm: LaidOutForSm | None,
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
        if not fits_toolchain or criteria.version not in (None, toolchain.version):
            continue
        if criteria.layout is None or _fits_layout(session, row, key, work, criteria.layout, laid_out_for_sm):
            keys.append(key)
    return keys


def _fits_layout(
    session: Session,
    row: type[CheckpointRow | EngineRow],
    key: str,
    work: dict[str, Any],
    layout: Layout,
    laid_out_for_sm: LaidOutForSm | None,
) -> bool:
    """True if the layout of the weights is not known to be that of the engine's SM, as `Layout` says."""
    assert laid_out_for_sm is not None, "the caller gives it with a layout"
    engine = session.get(EngineRow, key) if row is EngineRow else None
    convert = key
    spec = None
    if engine is not None:
        convert = str(session.get_one(ActionRow, key).depends_on)
        spec = engine.spec
    if not names_no_sm(session, convert) or not laid_out_for_sm(work, spec):
        return False
    if layout == "unnamed_sm" or engine is None:
        return True
    # No conversion at all: another farm ran it, on a GPU that this farm does not know.
    return sms_of_conversions(session, convert) != {engine.platform.get("sm")}
