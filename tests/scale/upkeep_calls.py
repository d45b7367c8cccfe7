"""The calls of the registry, of garbage collection and of other upkeep whose time must not grow with the catalogue.

Of garbage collection, one batch of each step: a whole run takes a number of batches that grows with the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import of_bytes
from enginefarm.wire.retention import Policy
from models.catalogue.database import Database
from models.catalogue.ranges import KeyRange, next_range
from models.catalogue.rows import ActionRow, BlobRow, EngineRow, ManifestFileRow, ManifestRow
from models.queries import oci_registry as registry
from models.queries.oci import repository
from models.queries.registry_entries import has_unregistered
from models.retention import blob_gc, past_actions, past_builds, pulls, removal
from models.retention.policies import CheckpointReview, EngineReview, freed_bytes
from tests.scale.fill import COMMON_MODEL, RARE_MODEL

_PAGE = 50
_BATCH = 50  # to the small catalogue of tests what the real batches of 500 are to one of a million
_REMOVED = 10
_NINETY_PERCENT = KeyRange(None, "sha256:e6")  # of all digests, which are random
_PAST_DAYS = 0.005
_PAST_BATCH = 100
_TEMPLATE = 5  # a `seq` after the build that the others are copies of, which is young
_UNKNOWN = "sha256:" + "0" * 64


def upkeep_calls(database: Database) -> list[tuple[str, Callable[[Session], object]]]:
    """Names and functions, with keys of rows that the catalogue has."""
    with database.write() as session:
        oldest = select(EngineRow.key).order_by(EngineRow.created_at).limit(1)
        engine = session.get_one(EngineRow, session.execute(oldest).scalar_one())
        name = repository(engine.model, engine.toolchain)
        common, rare = (repository(model, engine.toolchain) for model in (COMMON_MODEL, RARE_MODEL))
        artifact = registry.find_artifact(session, name, engine.key)
        # The copies have invented digests.
        digests = {"oci_manifest": artifact.digest, "oci_config": of_bytes(artifact.config)}
        session.execute(update(EngineRow).where(EngineRow.key == engine.key).values(**digests))
        of_engine = select(ManifestFileRow.blob).where(ManifestFileRow.manifest == engine.manifest).limit(1)
        blob = session.execute(of_engine).scalar_one()
        key = engine.key

    def blobs_of(session: Session) -> KeyRange:
        blobs = next_range(session, BlobRow.digest, _NINETY_PERCENT, size=_BATCH)
        assert blobs is not None
        return blobs

    def unused_manifests(session: Session) -> object:
        manifests = next_range(session, ManifestRow.digest, _NINETY_PERCENT, size=_BATCH)
        assert manifests is not None
        return removal.unused_manifests(session, manifests)

    def removed(session: Session) -> None:
        batch = EngineReview((Policy(keep_last=0),), link_seconds=10, batch_size=_REMOVED).next_batch(session)
        assert batch is not None
        removal.mark(session, batch)
        gone = removal.remove(session, batch.candidates, grace_seconds=0, removed_by=None)
        assert len(gone) == _REMOVED

    def removed_manifests(session: Session) -> None:
        manifests = next_range(session, ManifestRow.digest, _NINETY_PERCENT, size=_REMOVED)
        assert manifests is not None
        session.execute(delete(EngineRow).where(manifests.condition(EngineRow.manifest)))
        removal.remove_manifests(session, removal.unused_manifests(session, manifests))

    def reviewed_engines(session: Session) -> object:
        return EngineReview((Policy(keep_last=1),), link_seconds=10, batch_size=_BATCH).next_batch(session)

    def reviewed_checkpoints(session: Session) -> object:
        return CheckpointReview(removal.is_marked, keep_days=0, batch_size=_BATCH).next_batch(session)

    def past_builds_removed(session: Session) -> None:
        batch = past_builds.next_batch(session, days=_PAST_DAYS, after=_TEMPLATE, size=_PAST_BATCH)
        assert batch is not None
        past_builds.remove(session, batch.removable, days=_PAST_DAYS)

    def past_actions_removed(session: Session) -> None:
        actions = next_range(session, ActionRow.key, KeyRange(None, "e6"), size=_PAST_BATCH)
        assert actions is not None
        past_actions.removable_keys(session, actions, days=_PAST_DAYS)
        with_past_rows = select(ActionRow.key).where(actions.condition(ActionRow.key)).limit(10)
        past_actions.remove(session, list(session.execute(with_past_rows).scalars()), days=_PAST_DAYS)

    def corrected(session: Session) -> None:
        digests = session.execute(select(BlobRow.digest).order_by(BlobRow.digest).limit(_BATCH)).scalars().all()
        blob_gc.correct_marks(session, digests)

    return [
        ("registry: repositories", lambda session: registry.repositories(session, after="", limit=_PAGE)),
        ("registry: tags of a common model", lambda session: registry.tags(session, common, after="", limit=_PAGE)),
        ("registry: tags of a rare model", lambda session: registry.tags(session, rare, after="", limit=_PAGE)),
        ("registry: manifest by tag", lambda session: registry.find_artifact(session, name, key)),
        ("registry: manifest by digest", lambda session: registry.find_artifact(session, name, artifact.digest)),
        ("registry: configuration", lambda session: registry.find_document(session, name, digests["oci_config"])),
        ("registry: a blob", lambda session: registry.holds_file(session, name, blob)),
        ("registry: an unknown blob", lambda session: registry.holds_file(session, name, _UNKNOWN)),
        ("registry: engines to register", has_unregistered),
        ("note of a pull", lambda session: pulls.without_recent_pull(session, [key])),
        ("engines with a file", lambda session: pulls.engines_with_file(session, blob, limit=20)),
        ("gc: a batch of engines", reviewed_engines),
        ("gc: a batch of checkpoints", reviewed_checkpoints),
        ("gc: bytes of a batch", lambda session: freed_bytes(session, blobs_of(session), removal.is_marked)),
        ("gc: removal of ten engines", removed),
        ("gc: removal of ten manifests", removed_manifests),
        ("gc: unused manifests of a batch", unused_manifests),
        ("gc: marks of a batch", lambda session: blob_gc.wrong_marks(session, blobs_of(session))),
        ("gc: correction of a batch", corrected),
        ("gc: marked files", lambda session: blob_gc.next_marked(session, None, size=_BATCH)),
        ("past builds: a batch", past_builds_removed),
        ("past builds: a batch of actions", past_actions_removed),
        (
            "past builds: workers",
            lambda session: past_actions.remove_past_workers(session, days=_PAST_DAYS, size=_PAST_BATCH),
        ),
    ]
