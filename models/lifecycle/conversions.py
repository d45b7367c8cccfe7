"""On which GPUs a checkpoint was converted: a key document of version 1 does not name the SM."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.key import CONVERT
from models.catalogue.rows import ActionRow, AttemptRow, CheckpointRow, WorkerRow
from models.catalogue.states import Outcome
from models.catalogue.visibility import USABLE


def names_no_sm(session: Session, convert: str) -> bool:
    """True if the key of this convert action is of version 1: the layout of its weights is that of some GPU."""
    document = session.execute(select(ActionRow.document).where(ActionRow.key == convert)).scalar_one()
    return document.get("document") == CONVERT


def sm_of_checkpoint(session: Session, convert: str) -> str | None:
    """The SM of the GPU of the worker that made the checkpoint; None if it has no GPU or the checkpoint is gone."""
    query = (
        select(WorkerRow.platform)
        .join(AttemptRow, AttemptRow.worker_id == WorkerRow.id)
        .join(
            CheckpointRow,
            (CheckpointRow.key == AttemptRow.action_key) & (CheckpointRow.attempt == AttemptRow.number),
        )
        .where(CheckpointRow.key == convert, USABLE)
    )
    platform = session.execute(query).scalar_one_or_none()
    return None if platform is None else platform.get("sm")


def sms_of_conversions(session: Session, convert: str) -> set[str | None]:
    """The SM of every worker that ever made the checkpoint; None stands for a worker without a GPU."""
    query = (
        select(WorkerRow.platform)
        .join(AttemptRow, AttemptRow.worker_id == WorkerRow.id)
        .where(AttemptRow.action_key == convert, AttemptRow.outcome == Outcome.SUCCEEDED)
    )
    return {platform.get("sm") for platform in session.execute(query).scalars()}
