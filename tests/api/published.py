"""A farm with one published engine behind a real HTTP server, for tests of what serving nodes see."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from api.app import create_app
from api.http.server import server_config
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.stage import Stage
from models.catalogue.database import Database
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.opening import open_store
from models.security import api_keys as access
from models.settings import Settings
from tests.migrated import set_up_new_farm
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, submit_request

MODEL = "hf:Org/Tiny.Llama@" + "0" * 40
FILES = {"config.json": b"{}", "lora/adapter.bin": b"a" * 70_000, "rank0.engine": bytes(range(256)) * 4096}


@dataclass(frozen=True)
class Published:
    url: str
    key: str
    manifest: Manifest
    database: Database
    api_key: str | None  # with the scope `read`
    store: Path  # the folder of its store


@contextmanager
def published(
    folder: Path, *, guarded: bool = False, files: Mapping[str, Path | bytes] = FILES, **settings: str
) -> Iterator[Published]:
    """`guarded`: it asks for an API key. `settings` as in the environment, without the prefix."""
    ours = settings_in(folder, **settings)
    set_up_new_farm(ours)
    database = Database(ours.database_url.get_secret_value())
    _lay_out(files, folder / "engine")
    key, manifest = _publish(database, ours, folder / "engine")
    api_key = _read_key(database) if guarded else None
    with served(ours) as url:
        yield Published(url, key, manifest, database, api_key, folder / "store")
    database.close()


def settings_in(folder: Path, **settings: str) -> Settings:
    """As in the environment, without the prefix; SQLite and a store in `folder` if nothing else is said."""
    return Settings.from_environment(
        {
            "ENGINEFARM_DATABASE_URL": f"sqlite:///{folder / 'catalogue.db'}",
            "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",  # nothing is announced here
            "ENGINEFARM_STORE_URL": f"file://{folder / 'store'}",
            "ENGINEFARM_LINK_SECRET": "s" * 32,
            **{f"ENGINEFARM_{name}": value for name, value in settings.items()},
        }
    )


def _read_key(database: Database) -> str:
    with database.write() as session:
        return access.create(session, "node", [access.Scope.READ])


def _lay_out(files: Mapping[str, Path | bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (folder / name).hardlink_to(content)
        else:
            (folder / name).write_bytes(content)


def _publish(database: Database, settings: Settings, folder: Path) -> tuple[str, Manifest]:
    manifest, store = Manifest.of_directory(folder), open_store(settings, link_secret=b"s" * 32)
    for entry in manifest.files:
        store.put(folder / entry.path, entry.digest, entry.size)
    request = new_request(MODEL)
    worker = add_worker(database)
    submit_request(database, request)
    for action in (request.convert, request.build):
        claim = claim_now(database, action.key, worker)
        with database.write() as session:
            if action.stage is Stage.CONVERT:
                publish_checkpoint(session, claim, manifest, facts={}, steps={})
            else:
                columns = ENGINE | {
                    "model": MODEL, "spec": {"model": MODEL}, "provenance": {"checkpoint": manifest.digest}
                }  # fmt: skip
                publish_engine(session, claim, manifest, engine=columns, steps={})
    return request.build.key, manifest


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    config = server_config(create_app(settings), settings)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
