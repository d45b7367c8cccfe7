"""Bytes are collected in the very moment in which a worker publishes them."""

from __future__ import annotations

import httpx
from sqlalchemy import select, text

from models.catalogue.database import Database
from models.catalogue.rows import BlobRow
from models.opening import open_store
from models.retention import blob_gc as garbage
from models.retention import removal
from models.retention.policies import engines_to_remove
from models.settings import Settings
from tests.farm.running_farm import RunningFarm, eventually
from tests.farm.test_end_to_end import pulled

_BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


def somebody_waits(database: Database) -> bool:
    with database.read() as session:
        return bool(session.execute(_BLOCKED).scalar_one())


def removed(farm: RunningFarm, key: str) -> list[str]:
    """Take an engine away without any grace; its bytes that nothing refers to any more."""
    with farm.database.write() as session:
        removal.request_removal(session, key, "to be built again")
        (found,) = engines_to_remove(session, [], link_seconds=0)
        assert removal.remove(session, found, grace_seconds=0, removed_by=None)
        removal.remove_manifests(session)
        garbage.mark_unreferenced(session)
    with farm.database.read() as session:
        return list(garbage.removable(session, grace_seconds=0))


def test_a_worker_uploads_again_what_was_collected_before_it_could_publish(farm: RunningFarm) -> None:
    """It found the bytes in the store, sent nothing, and waits for the collector who deletes them."""
    farm.add_api()
    farm.add_worker("w1")
    store = open_store(Settings.from_environment(farm.environment), link_secret=b"s" * 32)
    spec = farm.spec(farm.add_model())
    key = farm.ended(farm.submit(spec)["id"])["key"]
    blob, *_ = removed(farm, key)
    with farm.database.write() as session:
        session.execute(select(BlobRow).where(BlobRow.digest == blob).with_for_update()).one()
        again = farm.submit(spec)
        eventually(lambda: somebody_waits(farm.database))
        assert garbage.remove(session, store, blob, grace_seconds=0) is not None
    ended = farm.ended(again["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert "uploading again" in httpx.get(f"{farm.urls[0]}/v1/builds/{again['id']}/logs").text
    pulled(farm, key)
    assert farm.outcomes() == {("convert", "succeeded"): 1, ("build", "succeeded"): 2}
