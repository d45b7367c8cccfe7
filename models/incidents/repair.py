"""Damage in the store: found by reading, taken out of the catalogue, mended by building anew.

Bytes are never deleted for being wrong. Their blob's row is marked instead: the next upload of that blob writes it
again although the store has something under its name, and nothing that refers to it is published before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError, NotFound
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.wire.bodies import Failure
from enginefarm.wire.recall import WithdrawalResult
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, BlobRow, CheckpointRow, EngineRow, ManifestFileRow
from models.catalogue.states import ActionState, Fenced, Outcome
from models.catalogue.visibility import SERVED, USABLE
from models.lifecycle.leases import Claim, fail_attempt
from models.lifecycle.publication import read_manifest
from models.lifecycle.transitions import end_attempt, lock_action
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queue.names import Announcement
from models.store import Store

REASON = "its bytes in the store are damaged"


def manifests_of(session: Session, key: str) -> tuple[Manifest, Manifest | None]:
    """What an engine is made of, and the checkpoint that it was built from if that is there; taken out or not.

    Raises:
        NotFound
    """
    engine = session.get(EngineRow, key)
    if engine is None:
        raise NotFound(f"there is no engine {key!r}; GET /v1/engines lists what there is")
    depends_on = session.get_one(ActionRow, key).depends_on
    checkpoint = session.get(CheckpointRow, depends_on) if depends_on else None
    return read_manifest(session, engine.manifest), read_manifest(session, checkpoint.manifest) if checkpoint else None


def damaged_files(store: Store, files: Iterable[FileEntry]) -> list[FileEntry]:
    """Those of `files` whose bytes in the store are missing or wrong. Reads all of them.

    Raises:
        StoreUnavailable: then nothing can be said.
    """
    return [entry for entry in files if not (_whole(store, entry) or _whole(store, entry))]


def _whole(store: Store, entry: FileEntry) -> bool:
    try:
        store.verify(entry.digest, entry.size)
    except (NotFound, IntegrityError):
        return False
    return True


def withdraw_damaged(session: Session, digests: Collection[Digest]) -> tuple[WithdrawalResult, list[Announcement]]:
    """Mark the blobs as damaged, and take out every engine and checkpoint that has one of them."""
    _mark(session, digests)
    manifests = select(ManifestFileRow.manifest).where(ManifestFileRow.blob.in_(digests))
    checkpoints = _keys(session, select(CheckpointRow.key).where(USABLE, CheckpointRow.manifest.in_(manifests)))
    engines = _keys(session, select(EngineRow.key).where(SERVED, EngineRow.manifest.in_(manifests)))
    announcements = []
    for key in checkpoints:
        announcements += withdraw_checkpoint(session, key, REASON)
    taken = [key for key in engines if withdraw_engine(session, key, REASON)]
    return WithdrawalResult(engines=taken, checkpoints=checkpoints), announcements


def _mark(session: Session, digests: Collection[Digest]) -> None:
    held = select(BlobRow.digest).where(BlobRow.digest.in_(digests)).order_by(BlobRow.digest)
    session.execute(held.with_for_update(key_share=True))
    session.execute(update(BlobRow).where(BlobRow.digest.in_(digests)).values(damaged_at=now()))


def _keys(session: Session, query: Select[str]) -> Sequence[str]:
    return sorted(session.execute(query).scalars())


def withdraw_damaged_checkpoint(
    session: Session, held: Claim, digest: Digest, failure: Failure, *, max_tries: int, steps: dict[str, float]
) -> list[Announcement]:
    """A build found the checkpoint that it starts from damaged: take it out, and let the build wait for a new one.

    Raises:
        Fenced: the lease was lost before.
    """
    _mark(session, [digest])
    _hold_convert(session, held)
    if held.tries >= max_tries:
        fail_attempt(session, held, failure, max_tries=max_tries, steps=steps)
    else:
        _require(session, held)
        end_attempt(session, held.key, held.attempt, Outcome.FAILED, failure=failure, steps=steps)
    return withdraw_damaged(session, [digest])[1]


def _hold_convert(session: Session, held: Claim) -> None:
    """Before the build is touched: see the lock order in models.actions."""
    depends_on = session.execute(select(ActionRow.depends_on).where(ActionRow.key == held.key)).scalar_one()
    if depends_on is not None:
        lock_action(session, depends_on)


def _require(session: Session, held: Claim) -> None:
    ours = (ActionRow.key == held.key, ActionRow.attempt == held.attempt, ActionRow.state == ActionState.RUNNING)
    if session.execute(select(ActionRow.key).where(*ours)).first() is None:
        raise Fenced(f"the lease on {held.key[:12]}, attempt {held.attempt}, is lost")
