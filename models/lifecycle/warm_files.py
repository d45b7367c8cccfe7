"""Warm files: files of an earlier run that make a stage faster, and the time that they saved. Nothing here commits."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow, BlobRow, WarmFileRow
from models.catalogue.states import ActionState, Outcome
from models.catalogue.upsert import upsert
from models.lifecycle.blobs import record_blobs
from models.lifecycle.leases import Claim

_SAMPLES = 20  # only recent attempts, so that the saving is measured against the present machines and release

_EXAMINED = 500  # attempts, the newest of the checkpoint: those of before it had a warm file are the oldest of them


@dataclass(frozen=True)
class StoredWarmFile:
    digest: str
    size: int  # bytes


def find_warm_file(session: Session, key: str) -> StoredWarmFile | None:
    """The warm file of this key, which is the SHA-256 of everything that it depends on."""
    query = select(BlobRow.digest, BlobRow.size).join(WarmFileRow, WarmFileRow.blob == BlobRow.digest)
    row = session.execute(query.where(WarmFileRow.key == key)).first()
    if row is None:
        return None
    return StoredWarmFile(row.digest, row.size)


def save_warm_file(session: Session, key: str, document: dict[str, Any], file: StoredWarmFile) -> None:
    """Replace the warm file by that of the last successful run, whose bytes are in the store already."""
    record_blobs(session, {file.digest: file.size})
    upsert(session, WarmFileRow, {"key": key, "document": document, "blob": file.digest, "updated_at": now()})


def record_warmth(session: Session, claim: Claim, start: StoredWarmFile, *, seconds: float) -> None:
    """Record on the attempt which warm file its stage started from, and how much faster than usual it was."""
    # Compare with attempts without a warm file, from the same checkpoint in the same queue: the same model on the same
    # kind of machine.
    checkpoint = select(ActionRow.depends_on).where(ActionRow.key == claim.key).scalar_subquery()
    # Of the newest ones in the index of the checkpoint: it may have thousands.
    newest = (
        select(ActionRow.key, ActionRow.attempt, ActionRow.queued_at)
        .where(
            ActionRow.queue == claim.queue,
            ActionRow.depends_on == checkpoint,
            ActionRow.state == ActionState.SUCCEEDED,
            # Not this action itself, whose attempt has just ended and whose warmth is written only below.
            ActionRow.key != claim.key,
        )
        .order_by(ActionRow.queued_at.desc())
        .limit(_EXAMINED)
        .subquery()
    )
    is_last = (AttemptRow.action_key == newest.c.key) & (AttemptRow.number == newest.c.attempt)
    steps_of_attempts = session.execute(
        select(AttemptRow.steps)
        .join(newest, is_last)
        .where(AttemptRow.outcome == Outcome.SUCCEEDED, AttemptRow.warmth.is_(None))
        .order_by(newest.c.queued_at.desc())
        .limit(_SAMPLES)
    ).scalars()
    cold_seconds = [steps[claim.stage] for steps in steps_of_attempts if claim.stage in steps]
    saved_seconds = None  # unknown, if no such attempt ran yet
    if cold_seconds:
        saved_seconds = round(median(cold_seconds) - seconds, 3)
    warmth = {"file": start.digest, "saved_seconds": saved_seconds}
    attempt = (AttemptRow.action_key == claim.key, AttemptRow.number == claim.attempt)
    session.execute(update(AttemptRow).where(*attempt).values(warmth=warmth))
