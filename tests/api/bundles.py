"""Farms that exchange engines, and engines published as a worker would publish them for a real submit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginefarm.client.farm import Farm
from enginefarm.contract.manifest import Manifest
from enginefarm.wire.bodies import Submitted
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.opening import open_store
from models.security.signing_key import create
from models.settings import Settings
from models.store import Store
from tests.api.published import served, settings_in
from tests.migrated import set_up_new_farm
from tests.models.requests import CPU, HOST, add_worker, claim_now, one_file_manifest
from tests.models.store.blobs import put_bytes
from tests.promises import broken_promises


@dataclass(frozen=True)
class Site:
    """A farm with its keys, and how to look behind it."""

    folder: Path
    settings: Settings
    database: Database
    store: Store
    farm: Farm

    @property
    def public_key(self) -> Path:
        (key,) = self.farm.signing_keys()
        path = self.folder / "public.pem"
        path.write_text(key.public_key)
        return path

    def blobs(self) -> set[str]:
        return {digest for digest, _ in self.store.list()}

    def require_promises(self) -> None:
        with self.database.read() as session:
            assert broken_promises(session) == []


@contextmanager
def site(folder: Path, *, signs: bool = True, **settings: str) -> Iterator[Site]:
    folder.mkdir(exist_ok=True)
    if signs:
        create(folder / "signing.pem")
        settings["SIGNING_KEY"] = str(folder / "signing.pem")
    ours = settings_in(folder, **settings)
    set_up_new_farm(ours)
    database = Database(ours.database_url.get_secret_value())
    with served(ours) as url, Farm(url, patience=5) as client:
        yield Site(folder, ours, database, open_store(ours, link_secret=b"s" * 32), client)
    database.close()


def build_at(place: Site, spec: Mapping[str, Any], files: Mapping[str, bytes], folder: Path) -> Submitted:
    """Ask for an engine and publish `files` as it, as a worker does."""
    submitted = place.farm.submit(spec)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = Manifest.of_directory(folder)
    for entry in manifest.files:
        place.store.put(folder / entry.path, entry.digest, entry.size)
    with place.database.read() as session:
        convert = session.get_one(ActionRow, submitted.key).depends_on
    assert convert is not None
    add_worker(place.database)
    if not _converted(place, convert):
        claim = claim_now(place.database, convert)
        put_bytes(place.store, b"weights")
        with place.database.write() as session:
            publish_checkpoint(session, claim, one_file_manifest("weights"), facts={}, steps={})
    claim = claim_now(place.database, submitted.key)
    job = claim.work.job
    columns = {
        "model": job.spec.model, "toolchain": job.toolchain, "version": job.version,
        "platform": CPU.model_dump(), "bound_to": claim.document["platform"], "driver_binding": "branch",
        "spec": job.spec.model_dump(mode="json"),
        "provenance": {"worker": "w1", "host": HOST.model_dump(), "checkpoint": one_file_manifest("weights").digest},
    }  # fmt: skip
    with place.database.write() as session:
        publish_engine(session, claim, manifest, engine=columns, steps={})
    return submitted


def _converted(place: Site, key: str) -> bool:
    with place.database.read() as session:
        return session.get_one(ActionRow, key).state == "succeeded"
