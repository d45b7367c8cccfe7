"""Garbage collection of blobs: find bytes that nothing refers to, mark them, and delete them after a grace.

A blob's row is the lock on its bytes. The collector deletes them in a transaction that holds the row, saw that it is
marked and that nothing refers to it, and deletes the row too. A publisher holds the row from before it looks for the
bytes until the commit of what refers to them (models.lifecycle.blobs). So neither acts on what it saw before the
other acted. Bytes without a row, from attempts that never published, get a row first. See ADR 0008.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.wire.retention import FileTotals
from models.catalogue.clock import now
from models.catalogue.ranges import KeyRange, lock_free_rows, next_range
from models.catalogue.rows import AttemptRow, BlobRow, ManifestFileRow, WarmFileRow
from models.catalogue.upsert import insert_new
from models.store import Store

# What keeps a blob: a file of an engine or a checkpoint, a warm file, the complete log of an attempt.
_REFERRED = or_(
    exists().where(ManifestFileRow.blob == BlobRow.digest),
    exists().where(WarmFileRow.blob == BlobRow.digest),
    exists().where(AttemptRow.log_digest == BlobRow.digest),
)
_MARKED = BlobRow.marked_for_removal_at.is_not(None)


def wrong_marks(session: Session, blobs: KeyRange) -> list[Digest]:
    """The blobs of a range that are marked though something refers to them, or unmarked though nothing does."""
    wrong = or_(and_(_MARKED, _REFERRED), and_(~_MARKED, ~_REFERRED))
    return list(session.execute(select(BlobRow.digest).where(blobs.condition(BlobRow.digest), wrong)).scalars())


def correct_marks(session: Session, digests: Sequence[Digest]) -> None:
    """Mark those of these blobs that nothing refers to, and unmark the others. Blobs that are being published are left
    out: these are locked."""
    locked = BlobRow.digest.in_(lock_free_rows(session, BlobRow.digest, digests))
    session.execute(update(BlobRow).where(locked, _MARKED, _REFERRED).values(marked_for_removal_at=None))
    session.execute(update(BlobRow).where(locked, ~_MARKED, ~_REFERRED).values(marked_for_removal_at=now()))


def orphans(session: Session, stored: Mapping[Digest, int]) -> dict[Digest, int]:
    """The blobs of `stored`, from the store's listing (bytes by digest), that no row of the catalogue names."""
    # Logs of older farms have a digest in their attempt, but no row of a blob.
    recorded: set[Digest] = set(session.execute(select(BlobRow.digest).where(BlobRow.digest.in_(stored))).scalars())
    logs = select(AttemptRow.log_digest).where(AttemptRow.log_digest.in_(stored))
    for digest in session.execute(logs).scalars():
        assert digest is not None, "the query selects digests that are in the store"
        recorded.add(digest)
    return {digest: size for digest, size in stored.items() if digest not in recorded}


def adopt(session: Session, stored: Mapping[Digest, int]) -> None:
    """Insert a row for every orphan of `stored`, marked from the start.

    An attempt that is uploading such a blob now removes the mark when it publishes.
    """
    sizes = orphans(session, stored)
    # Sorted: blobs are inserted and locked in the order of their digests everywhere.
    rows = [{"digest": digest, "size": sizes[digest], "marked_for_removal_at": now()} for digest in sorted(sizes)]
    insert_new(session, BlobRow, rows)


def next_marked(session: Session, previous: KeyRange | None, *, size: int) -> KeyRange | None:
    """The range of the next `size` marked blobs; None if there are none."""
    return next_range(session, BlobRow.digest, previous, _MARKED, size=size)


def removable(session: Session, blobs: KeyRange, *, grace_seconds: float) -> Sequence[Digest]:
    """The blobs of a range that were marked at least `grace_seconds` ago and that nothing refers to."""
    conditions = (_MARKED, blobs.condition(BlobRow.digest), _grace_over(grace_seconds), ~_REFERRED)
    return session.execute(select(BlobRow.digest).where(*conditions)).scalars().all()


def total_in_grace(session: Session, blobs: KeyRange, *, grace_seconds: float) -> FileTotals:
    """The number and bytes of the blobs of a range that nothing refers to and that are unmarked or in their grace."""
    in_grace = or_(~_MARKED, ~_grace_over(grace_seconds))
    return _total(session, blobs.condition(BlobRow.digest), ~_REFERRED, in_grace)


def total_removable(session: Session, blobs: KeyRange, *, grace_seconds: float) -> FileTotals:
    """The number and bytes of `removable`."""
    return _total(session, blobs.condition(BlobRow.digest), ~_REFERRED, _grace_over(grace_seconds))


def remove(session: Session, store: Store, digest: Digest, *, grace_seconds: float) -> int | None:
    """Delete a removable blob, bytes and row; returns its size. None if it is not removable any more, or is locked.

    The bytes are deleted while the row is held. If the transaction is rolled back afterwards, a marked row without
    bytes is left: the next clean-up repeats this, and a publisher uploads the bytes again.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    lock = select(BlobRow.size).where(BlobRow.digest == digest, _grace_over(grace_seconds))
    size = session.execute(lock.with_for_update(skip_locked=True)).scalar_one_or_none()
    if size is None:
        return None
    # A second statement: it sees what was committed by a transaction that held the row until a moment ago.
    if session.execute(select(BlobRow.digest).where(BlobRow.digest == digest, _REFERRED)).first() is not None:
        return None
    # The bytes before the row: a row without bytes is repaired, bytes without a row would only be found by a listing.
    store.delete(digest)
    session.execute(delete(BlobRow).where(BlobRow.digest == digest))
    return size


def _grace_over(grace_seconds: float) -> ColumnElement[bool]:
    return BlobRow.marked_for_removal_at <= now(-grace_seconds)


def _total(session: Session, *conditions: ColumnElement[bool]) -> FileTotals:
    totals = select(func.count(), func.coalesce(func.sum(BlobRow.size), 0)).select_from(BlobRow).where(*conditions)
    files, size = session.execute(totals).one()
    return FileTotals(files=files, size=int(size))
