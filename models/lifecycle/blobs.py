"""Record blobs before something refers to them, safely against a garbage collection that runs meanwhile.

A publisher first writes the rows (`record_blobs`) and holds them, which stops the collector from deleting their bytes.
Then it checks that the store still has the bytes (`require_stored`): a blob that the store had already was not
uploaded again, and the collector may have deleted it before the row was held. Only after both may the publisher
commit. See ADR 0008.
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
    """The store no longer has a blob that it had: upload it again, then publish."""


def record_blobs(session: Session, sizes: Mapping[Digest, int]) -> None:
    """Write and hold a row for every blob (bytes by digest) until the transaction ends; none is marked for removal.

    Rows are inserted and then locked in the order of their digests, so that no two writers wait for each other.
    """
    new_rows = [{"digest": digest, "size": sizes[digest]} for digest in sorted(sizes)]
    lock = (
        select(BlobRow.digest, BlobRow.marked_for_removal_at)
        .where(BlobRow.digest.in_(sizes))
        .order_by(BlobRow.digest)
        .with_for_update()
    )
    while True:
        # Insert before the lock: a lock cannot hold a row that does not exist.
        insert_new(session, BlobRow, new_rows)
        locked_rows = session.execute(lock).all()
        if len(locked_rows) == len(new_rows):
            break
        # The lock waited for the collector, which removed a row: insert it again.
    for row in locked_rows:
        if row.marked_for_removal_at is not None:
            # A marked row may have its size from the store's listing, not from verified bytes.
            values = {"marked_for_removal_at": None, "size": sizes[row.digest], "verified_at": now()}
            session.execute(update(BlobRow).where(BlobRow.digest == row.digest).values(**values))


def damaged_blobs(session: Session, digests: Collection[Digest]) -> set[Digest]:
    """The blobs of `digests` that are known to be damaged in the store."""
    query = select(BlobRow.digest).where(BlobRow.damaged_at.is_not(None), BlobRow.digest.in_(digests))
    return set(session.execute(query).scalars())


def mark_rewritten(session: Session, digests: Collection[Digest]) -> None:
    """Note that correct bytes were written over damaged ones."""
    values = {"damaged_at": None, "verified_at": now()}
    session.execute(update(BlobRow).where(BlobRow.digest.in_(digests)).values(**values))


def require_stored(store: Store, sizes: Mapping[Digest, int]) -> None:
    """Check that the store has every blob, in its size (bytes by digest). Reads no contents.

    Raises:
        NotStored: a blob is not in the store, or not in this size.
        StoreUnavailable: the store does not answer.
    """
    for digest, size in sizes.items():
        stored_size = store.stat(digest)
        if stored_size is None:
            raise NotStored(f"{digest} is not in the store any more")
        if stored_size != size:
            raise NotStored(f"{digest} has {stored_size} bytes in the store, not {size}")
