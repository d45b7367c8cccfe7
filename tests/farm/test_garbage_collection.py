"""Bytes are collected in the very moment in which a worker publishes them."""

from __future__ import annotations

import httpx
from sqlalchemy import select, text

from models.catalogue.database import Database
from models.catalogue.rows import BlobRow
from models.opening import open_store
from models.retention import blob_gc as garbage
from models.retention import removal
from models.settings import Settings
from tests.farm.running_farm import RunningFarm, eventually
from tests.farm.test_end_to_end import require_downloadable
from tests.models.collection import correct_all_marks, removable_blobs, remove_unused_manifests, withdrawn_engines

_BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


def has_lock_waiters(database: Database) -> bool:
    with database.read() as session:
        return bool(session.execute(_BLOCKED).scalar_one())


def removed(running_farm: RunningFarm, key: str) -> list[str]:
    """Remove an engine without a grace; return its blobs that nothing refers to any more."""
    with running_farm.database.write() as session:
        removal.request_removal(session, key, "to be built again")
        (found,) = withdrawn_engines(session)
        assert removal.remove(session, [found], grace_seconds=0, removed_by=None)
        remove_unused_manifests(session)
        correct_all_marks(session)
    with running_farm.database.read() as session:
        return removable_blobs(session)


def test_a_worker_uploads_blobs_again_that_were_collected_before_it_published(running_farm: RunningFarm) -> None:
    """The worker finds the blobs in the store, uploads nothing, and then waits for the collector that deletes them."""
    running_farm.have_workers("w1")
    store = open_store(Settings.from_environment(running_farm.environment), link_secret=b"s" * 32)
    spec = running_farm.spec(running_farm.add_model())
    key = running_farm.ended(running_farm.submit(spec)["id"])["key"]
    blob, *_ = removed(running_farm, key)
    with running_farm.database.write() as session:
        session.execute(select(BlobRow).where(BlobRow.digest == blob).with_for_update()).one()
        again = running_farm.submit(spec)
        eventually(lambda: has_lock_waiters(running_farm.database))
        assert garbage.remove(session, store, blob, grace_seconds=0) is not None
    ended = running_farm.ended(again["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert "uploading again" in httpx.get(f"{running_farm.urls[0]}/v1/builds/{again['id']}/logs").text
    require_downloadable(running_farm, key)
    assert running_farm.outcomes() == {("convert", "succeeded"): 1, ("build", "succeeded"): 2}
