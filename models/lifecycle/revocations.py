"""Revocations: recalled engines, as they enter the list that the farm signs for its nodes.

A revocation names the key and the manifest, because publishing other bytes under the key does not make the recalled
ones good. Nothing here commits.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import exists, func, insert, literal, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.contract.key import Key
from enginefarm.wire.revocations import Revocation
from models.catalogue.clock import now
from models.catalogue.rows import EngineRow, RevocationRow
from models.catalogue.visibility import SERVED


def revoke(session: Session, keys: Sequence[Key], reason: str) -> None:
    """Revoke these engines with the files that they have now."""
    if not keys:
        return
    engines = select(EngineRow.key, EngineRow.manifest, literal(reason)).where(EngineRow.key.in_(keys))
    columns = [RevocationRow.key, RevocationRow.manifest, RevocationRow.reason]
    session.execute(insert(RevocationRow).from_select(columns, engines.order_by(EngineRow.key)))


def lift(session: Session, key: Key, manifest: Digest) -> None:
    """End the revocation of an engine that an administrator imports again with exactly these files.

    A worker may not write here: one that was taken over could otherwise end a recall. If it builds exactly these files
    again, the list leaves them out while they are served.
    """
    revoked = (RevocationRow.key == key, RevocationRow.manifest == manifest, RevocationRow.lifted_at.is_(None))
    session.execute(update(RevocationRow).where(*revoked).values(lifted_at=now()))


def revocations(session: Session) -> tuple[int, list[Revocation]]:
    """The sequence number of the list, and its entries.

    The number never falls, and rises with every recall and every end of one: it counts both. It is no serial number of
    rows, because a transaction with a lower one may commit later.
    """
    counts = select(func.count(RevocationRow.seq), func.count(RevocationRow.lifted_at))
    recalled, lifted = session.execute(counts).one()
    # By a worker, which may not lift.
    published_again = exists().where(
        EngineRow.key == RevocationRow.key, EngineRow.manifest == RevocationRow.manifest, SERVED
    )
    rows = select(RevocationRow).where(RevocationRow.lifted_at.is_(None), ~published_again)
    entries = {}
    for row in session.execute(rows.order_by(RevocationRow.seq)).scalars():
        # Of two recalls of the same engine the later reason counts.
        entries[row.key, row.manifest] = Revocation(
            key=row.key, manifest=row.manifest, reason=row.reason, revoked_at=row.revoked_at
        )
    return recalled + lifted, list(entries.values())
