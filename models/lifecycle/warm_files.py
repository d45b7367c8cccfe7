"""Warm files: found before a stage runs, replaced by the last good run, and what they saved. Nothing here commits."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, AttemptRow, BlobRow, WarmFileRow
from models.catalogue.states import Outcome
from models.catalogue.upsert import upsert
from models.lifecycle.blobs import record_blobs
from models.lifecycle.leases import Claim

_SAMPLES = 20


@dataclass(frozen=True)
class StoredWarmFile:
    digest: str
    size: int


def find_warm_file(session: Session, key: str) -> StoredWarmFile | None:
    query = select(BlobRow.digest, BlobRow.size).join(WarmFileRow, WarmFileRow.blob == BlobRow.digest)
    found = session.execute(query.where(WarmFileRow.key == key)).first()
    return StoredWarmFile(found.digest, found.size) if found else None


def save_warm_file(session: Session, key: str, document: dict[str, Any], kept: StoredWarmFile) -> None:
    """The last good run wins. The caller uploaded the bytes before."""
    record_blobs(session, {kept.digest: kept.size})
    upsert(session, WarmFileRow, {"key": key, "document": document, "blob": kept.digest, "updated_at": now()})


def record_warmth(session: Session, held: Claim, start: StoredWarmFile, *, seconds: float) -> None:
    """Note on the attempt what it started from, and how much faster its stage was than usual."""
    usual = cold_seconds(session, held)
    warmth = {"file": start.digest, "saved_seconds": None if usual is None else round(usual - seconds, 3)}
    which = (AttemptRow.action_key == held.key, AttemptRow.number == held.attempt)
    session.execute(update(AttemptRow).where(*which).values(warmth=warmth))


def cold_seconds(session: Session, held: Claim) -> float | None:
    """The median of what other attempts took without a warm file, from the same checkpoint in the same queue."""
    checkpoint = select(ActionRow.depends_on).where(ActionRow.key == held.key).scalar_subquery()
    rows = session.execute(
        select(AttemptRow.steps)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .where(
            ActionRow.queue == held.queue,
            ActionRow.depends_on == checkpoint,
            AttemptRow.outcome == Outcome.SUCCEEDED,
            AttemptRow.warmth.is_(None),
            or_(AttemptRow.action_key != held.key, AttemptRow.number != held.attempt),
        )
        .order_by(AttemptRow.ended_at.desc())
        .limit(_SAMPLES)
    ).scalars()
    took = [steps[held.stage] for steps in rows if held.stage in steps]
    return median(took) if took else None
