"""Bytes that nothing refers to: found, marked as doomed, and deleted after a grace.

A blob's row is the lock on its bytes. They are deleted by a transaction that holds the row, saw that it is doomed and
that nothing refers to it, and removes the row with them; a publisher holds the row from before it looks for the bytes
until what refers to them is committed (models.blobs). So neither can slip in between the other's look and its deed.
Bytes without a row, left by attempts that never published, first get one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.wire.retention import FileTotals
from models.catalogue.clock import now
from models.catalogue.rows import AttemptRow, BlobRow, ManifestFileRow, WarmFileRow
from models.catalogue.upsert import insert_new
from models.store import Store

_REFERRED = or_(
    exists().where(ManifestFileRow.blob == BlobRow.digest),
    exists().where(WarmFileRow.blob == BlobRow.digest),
    exists().where(AttemptRow.log_digest == BlobRow.digest),
)


def mark_unreferenced(session: Session) -> None:
    """Doom the rows that nothing refers to; spare those that something refers to by now."""
    session.execute(
        update(BlobRow).where(BlobRow.marked_for_removal_at.is_not(None), _REFERRED).values(marked_for_removal_at=None)
    )
    session.execute(
        update(BlobRow).where(BlobRow.marked_for_removal_at.is_(None), ~_REFERRED).values(marked_for_removal_at=now())
    )


def orphans(session: Session, found: Mapping[Digest, int]) -> dict[Digest, int]:
    """Those of `found` in the store (bytes by digest) that the catalogue knows nothing of."""
    known: set[Digest] = set(session.execute(select(BlobRow.digest).where(BlobRow.digest.in_(found))).scalars())
    logs = select(AttemptRow.log_digest).where(AttemptRow.log_digest.in_(found))
    known.update(digest for digest in session.execute(logs).scalars() if digest)
    return {digest: size for digest, size in found.items() if digest not in known}


def adopt(session: Session, found: Mapping[Digest, int]) -> None:
    """Give orphans a row, doomed from the start. Who is uploading one right now takes the mark off in publishing."""
    rows = orphans(session, found)
    insert_new(
        session,
        BlobRow,
        [{"digest": digest, "size": rows[digest], "marked_for_removal_at": now()} for digest in sorted(rows)],
    )


def removable(session: Session, *, grace_seconds: float) -> Sequence[Digest]:
    """Doomed for so long, and nothing refers to it."""
    return session.execute(select(BlobRow.digest).where(_over(grace_seconds), ~_REFERRED)).scalars().all()


def total_in_grace(session: Session, *, grace_seconds: float) -> FileTotals:
    """What nothing refers to and is still in its grace."""
    return _sum(session, ~_REFERRED & or_(BlobRow.marked_for_removal_at.is_(None), ~_over(grace_seconds)))


def total_removable(session: Session, *, grace_seconds: float) -> FileTotals:
    return _sum(session, ~_REFERRED & _over(grace_seconds))


def remove(session: Session, store: Store, digest: Digest, *, grace_seconds: float) -> int | None:
    """Delete a condemned blob, bytes and row; returns how many bytes. None: it is not condemned any more, or in use.

    The bytes go while the row is held. If the transaction is then undone, a doomed row is left without bytes: the next
    clean-up repeats this, and a publisher sends the bytes again.

    Raises:
        StoreUnavailable
    """
    over = select(BlobRow.size).where(BlobRow.digest == digest, _over(grace_seconds))
    size = session.execute(over.with_for_update(skip_locked=True)).scalar_one_or_none()
    if size is None:
        return None
    # A second statement: it sees what was committed by whoever held the row until a moment ago.
    if session.execute(select(BlobRow.digest).where(BlobRow.digest == digest, _REFERRED)).first() is not None:
        return None
    store.delete(digest)
    session.execute(delete(BlobRow).where(BlobRow.digest == digest))
    return size


def _over(grace_seconds: float) -> ColumnElement[bool]:
    return BlobRow.marked_for_removal_at <= now(-grace_seconds)


def _sum(session: Session, which: ColumnElement[bool]) -> FileTotals:
    files, size = session.execute(
        select(func.count(), func.coalesce(func.sum(BlobRow.size), 0)).select_from(BlobRow).where(which)
    ).one()
    return FileTotals(files=files, size=int(size))
