"""Steps of garbage collection on a small catalogue, as one batch each."""

from __future__ import annotations

from sqlalchemy.orm import Session

from enginefarm.wire.retention import RemovalCandidate
from models.catalogue.ranges import KeyRange
from models.retention import blob_gc, removal
from models.retention.policies import EngineReview

EVERY_KEY = KeyRange(None, "z")


def withdrawn_engines(session: Session) -> list[RemovalCandidate]:
    """The engines that are to be removed without any policy."""
    batch = EngineReview((), link_seconds=0, batch_size=100).next_batch(session)
    return [] if batch is None else batch.candidates


def remove_unused_manifests(session: Session) -> None:
    removal.remove_manifests(session, removal.unused_manifests(session, EVERY_KEY))


def correct_all_marks(session: Session) -> None:
    blob_gc.correct_marks(session, blob_gc.wrong_marks(session, EVERY_KEY))


def removable_blobs(session: Session, *, grace: float = 0) -> list[str]:
    return list(blob_gc.removable(session, EVERY_KEY, grace_seconds=grace))
