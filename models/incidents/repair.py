"""Repair: find damaged bytes in the store by reading them, withdraw what has them, and let it be built anew.

Wrong bytes are not deleted. Their blob's row is marked as damaged instead: the next upload of that blob writes it again
although the store has a file of its name, and nothing that refers to it is published before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError, NotFound
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.wire.bodies import Failure
from enginefarm.wire.recall import WithdrawalResult
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, BlobRow, CheckpointRow, EngineRow, ManifestFileRow
from models.catalogue.states import Outcome
from models.catalogue.visibility import SERVED, USABLE
from models.lifecycle.leases import Claim, fail_attempt, require_lease
from models.lifecycle.publication import read_manifest
from models.lifecycle.transitions import end_attempt, lock_action
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queue.names import Announcement
from models.store import Store

REASON = "its bytes in the store are damaged"


def manifests_of(session: Session, key: str) -> tuple[Manifest, Manifest | None]:
    """The manifests of an engine and of the checkpoint that it was built from, withdrawn or not.

    The second is None if the checkpoint was removed.

    Raises:
        NotFound: there is no such engine.
    """
    engine = session.get(EngineRow, key)
    if engine is None:
        raise NotFound(f"there is no engine {key!r}; GET /v1/engines lists the engines")
    depends_on = session.get_one(ActionRow, key).depends_on
    checkpoint_manifest = None
    if depends_on is not None:
        checkpoint = session.get(CheckpointRow, depends_on)
        if checkpoint is not None:
            checkpoint_manifest = read_manifest(session, checkpoint.manifest)
    return read_manifest(session, engine.manifest), checkpoint_manifest


def damaged_files(store: Store, files: Iterable[FileEntry]) -> list[FileEntry]:
    """The files whose bytes in the store are missing or wrong. Reads all bytes of `files`.

    Raises:
        StoreUnavailable: the store does not answer, so nothing is known of the bytes.
    """
    # Twice: a read that went wrong once must not withdraw an engine.
    return [entry for entry in files if not _is_intact(store, entry) and not _is_intact(store, entry)]


def _is_intact(store: Store, entry: FileEntry) -> bool:
    try:
        store.verify(entry.digest, entry.size)
    # A store that does not answer says nothing of the bytes, so that error passes.
    except (NotFound, IntegrityError):
        return False
    return True


def withdraw_damaged(session: Session, digests: Collection[Digest]) -> tuple[WithdrawalResult, list[Announcement]]:
    """Mark the blobs as damaged, and withdraw every engine and checkpoint that has one of them."""
    # Blobs before actions: the lock order.
    _mark_damaged(session, digests)
    manifests = select(ManifestFileRow.manifest).where(ManifestFileRow.blob.in_(digests))
    damaged_checkpoints = select(CheckpointRow.key).where(USABLE, CheckpointRow.manifest.in_(manifests))
    damaged_engines = select(EngineRow.key).where(SERVED, EngineRow.manifest.in_(manifests))
    # Sorted: several rows of one kind are locked by key.
    checkpoints = sorted(session.execute(damaged_checkpoints).scalars())
    engines = sorted(session.execute(damaged_engines).scalars())
    announcements = []
    for key in checkpoints:
        announcements += withdraw_checkpoint(session, key, REASON)
    withdrawn = [key for key in engines if withdraw_engine(session, key, REASON)]
    return WithdrawalResult(engines=withdrawn, checkpoints=checkpoints), announcements


def _mark_damaged(session: Session, digests: Collection[Digest]) -> None:
    # In the order of digests, as publishers lock them, so that neither waits for the other for ever.
    lock = select(BlobRow.digest).where(BlobRow.digest.in_(digests)).order_by(BlobRow.digest)
    session.execute(lock.with_for_update(key_share=True))
    session.execute(update(BlobRow).where(BlobRow.digest.in_(digests)).values(damaged_at=now()))


def withdraw_damaged_checkpoint(
    session: Session, claim: Claim, digest: Digest, failure: Failure, *, max_tries: int, steps: dict[str, float]
) -> list[Announcement]:
    """End a build attempt that found a file of its checkpoint damaged: the build waits for a new checkpoint.

    With no tries left, the action fails with `failure`.

    Raises:
        Fenced: the lease was lost before.
    """
    _mark_damaged(session, [digest])
    # Lock the convert action before the build is touched: see the lock order in models.lifecycle.transitions.
    depends_on = session.execute(select(ActionRow.depends_on).where(ActionRow.key == claim.key)).scalar_one()
    if depends_on is not None:
        lock_action(session, depends_on)
    if claim.tries >= max_tries:
        fail_attempt(session, claim, failure, max_tries=max_tries, steps=steps)
    else:
        # The attempt ends here; `withdraw_damaged` then lets the action wait, which is still running.
        require_lease(session, claim)
        end_attempt(session, claim.key, claim.attempt, Outcome.FAILED, failure=failure, steps=steps)
    _result, announcements = withdraw_damaged(session, [digest])
    return announcements
