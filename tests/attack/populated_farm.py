"""A farm with something of everything: engines, builds in each state, a worker, a signing key, models in folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from enginefarm.contract.manifest import Manifest
from enginefarm.contract.platform import Platform
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.opening import open_store
from models.security import api_keys as access
from models.security.signing_key import create
from models.settings import Settings
from tests.api.conftest import add_model
from tests.api.published import served, settings_in
from tests.migrated import set_up_new_farm
from tests.models.requests import add_worker, claim_now
from tests.servers.hub import Hub

ENGINE_FILES = {"config.json": b"{}", "rank0.engine": bytes(range(256))}


@dataclass(frozen=True)
class PopulatedFarm:
    url: str
    api_key: str  # with every scope
    database: Database
    models: Path  # a folder of models that the farm may read
    engines: tuple[str, ...]  # keys
    build: str  # the id of a queued build

    def spec(self, **changes: Any) -> dict[str, Any]:
        return _spec(self.models, **changes)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}


@contextmanager
def populated_farm(folder: Path, **settings: str) -> Iterator[PopulatedFarm]:
    """`settings` as in the environment, without the prefix; `BROKER_URL` is needed, because builds are submitted."""
    models = folder / "models"
    add_model(models, "tiny")
    with Hub() as hub:
        hub.push("org/tiny", {path.name: path.read_bytes() for path in (models / "tiny").iterdir()})
        settings = {"MODEL_ROOTS": str(models), "HF_ENDPOINT": hub.url, "WORKER_SECONDS": "3600", **settings}
        signing_key = folder / "signing.pem"
        create(signing_key)
        ours = settings_in(folder, SIGNING_KEY=str(signing_key), **settings)
        set_up_new_farm(ours)
        database = Database(ours.database_url.get_secret_value())
        with database.write() as session:
            api_key = access.create(session, "admin", [access.Scope.ADMIN])
        headers = {"Authorization": f"Bearer {api_key}"}
        with served(ours) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            engines = []
            for limit in (64, 128, 256):
                spec = _spec(models, limits={"max_input_len": limit, "max_output_len": 64})
                engines.append(submit(client, spec)["key"])
                _publish(database, ours, folder, client.get("/v1/builds").json()["items"][0])
            queued = submit(client, _spec(models, model="hf:org/tiny"))["id"]
            cancelled = submit(client, _spec(models, limits={"max_input_len": 32, "max_output_len": 32}))["id"]
            client.delete(f"/v1/builds/{cancelled}")
            yield PopulatedFarm(url, api_key, database, models, tuple(engines), queued)
        database.close()


def submit(client: httpx.Client, spec: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/builds", json=spec)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def _spec(models: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": f"file:{models / 'tiny'}",
        "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_input_len": 48, "max_output_len": 48},
        "platform": {"arch": "x86_64", "cpu_isa": "x86-64-v3"},
        **changes,
    }


def _publish(database: Database, settings: Settings, folder: Path, build: dict[str, Any]) -> None:
    """Publish the engine of a queued build, as a worker does."""
    files = folder / "engine"
    files.mkdir(exist_ok=True)
    for name, content in ENGINE_FILES.items():
        (files / name).write_bytes(content)
    manifest = Manifest.of_directory(files)
    store = open_store(settings, link_secret=b"s" * 32)
    for entry in manifest.files:
        store.put(files / entry.path, entry.digest, entry.size)
    with database.read() as session:
        action = session.get_one(ActionRow, build["key"])
        convert = session.get_one(ActionRow, action.depends_on)
        queues = tuple(session.execute(select(ActionRow.queue).distinct()).scalars())
    worker = add_worker(database, queues=queues)
    if convert.state != "succeeded":
        claim = claim_now(database, convert.key, worker)
        with database.write() as session:
            publish_checkpoint(session, claim, manifest, facts={}, steps={})
    claim = claim_now(database, action.key, worker)
    engine = {
        "model": build["model"],
        "toolchain": build["toolchain"],
        "version": build["version"],
        "platform": Platform.model_validate(build["platform"]).model_dump(),
        "bound_to": action.document["platform"],
        "driver_binding": "branch",
        "spec": build["spec"],
        "provenance": {"checkpoint": manifest.digest},
    }
    with database.write() as session:
        publish_engine(session, claim, manifest, engine=engine, steps={})
