"""Rows of blobs, as whoever gives bytes a name writes them: safe against bytes being collected meanwhile.

A publisher first makes its rows (`record_blobs`), which from then on keep the collector out, and then looks whether the
bytes are there still (`require_stored`): those that it found in the store, and so did not send, may have been collected
before. Only what passes both is published. See ADR 0008.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError
from models.catalogue.clock import now
from models.catalogue.rows import BlobRow
from models.catalogue.upsert import insert_new
from models.store import Store


class NotStored(IntegrityError):
    """Bytes that were in the store are there no more: upload them again, and publish then."""


def record_blobs(session: Session, sizes: Mapping[Digest, int]) -> None:
    """A row for every blob, held until the transaction ends, and none of them doomed.

    Rows are inserted and then locked in the order of their digests, so that no two writers wait for each other.
    """
    rows = [{"digest": digest, "size": sizes[digest]} for digest in sorted(sizes)]
    held = select(BlobRow.digest, BlobRow.doomed_at).where(BlobRow.digest.in_(sizes)).order_by(BlobRow.digest)
    while True:
        insert_new(session, BlobRow, rows)
        found = session.execute(held.with_for_update()).all()
        if len(found) == len(rows):  # else the collector, which we waited for, removed one
            break
    for digest in (row.digest for row in found if row.doomed_at is not None):
        values = {"doomed_at": None, "size": sizes[digest], "verified_at": now()}  # its size was only the store's word
        session.execute(update(BlobRow).where(BlobRow.digest == digest).values(**values))


def damaged_blobs(session: Session, digests: Collection[Digest]) -> set[Digest]:
    """Those that are known to be damaged in the store."""
    found = select(BlobRow.digest).where(BlobRow.damaged_at.is_not(None), BlobRow.digest.in_(digests))
    return set(session.execute(found).scalars())


def mark_rewritten(session: Session, digests: Collection[Digest]) -> None:
    """They were written again, and are right now."""
    values = {"damaged_at": None, "verified_at": now()}
    session.execute(update(BlobRow).where(BlobRow.digest.in_(digests)).values(**values))


def require_stored(store: Store, sizes: Mapping[Digest, int]) -> None:
    """
    Raises:
        NotStored: a blob is not in the store, or not in this size.
        StoreUnavailable
    """
    for digest, size in sizes.items():
        if (found := store.stat(digest)) != size:
            is_there = (
                "is not in the store any more" if found is None else f"has {found} bytes in the store, not {size}"
            )
            raise NotStored(f"{digest} {is_there}")
