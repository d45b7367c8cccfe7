"""A whole farm of real processes: any number of APIs and workers on one catalogue, broker and store."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlalchemy import func, select

from local.process import Process
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, AttemptRow
from models.settings import PREFIX, Settings
from tests.doubles.weights import weights
from tests.migrated import set_up_new_farm
from tests.servers.s3 import Swift
from tests.servers.server import free_port

CHECKOUT = Path(__file__).parent.parent.parent
QUICK = CHECKOUT / "tests" / "doubles" / "quick"
_READY = "listening on"  # in the log of a worker

T = TypeVar("T")


def left_in_scratch(scratch: Path) -> list[Path]:
    """The folders in a worker's scratch folder, without the one that an idle worker prepares for its next attempt."""
    folders = list(scratch.iterdir())
    unused = [
        folder
        for folder in folders
        if not any(any((folder / part).glob("*")) for part in ("source", "inputs", "output"))
    ]
    return [folder for folder in folders if folder not in unused[:1]]


def eventually(look: Callable[[], T | None], *, seconds: float = 60) -> T:
    """Call `look` until it returns something true, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = look()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def s3_settings(server: Swift) -> dict[str, str]:
    """Settings for a new bucket on `server`."""
    return {
        "STORE_URL": f"s3://farm-{secrets.token_hex(4)}/x", "S3_ENDPOINT": f"http://{server.endpoint}",
        "S3_ACCESS_KEY": server.access_key, "S3_SECRET_KEY": server.secret_key,
    }  # fmt: skip


class RunningFarm:
    """Starts no process by itself: call `add_api` and `add_worker`. `close` ends all of them."""

    def __init__(self, state: Path, settings: Mapping[str, str]) -> None:
        self.state = state
        self.models = state / "models"
        self.models.mkdir()
        self.processes: list[Process] = []
        self.apis: list[Process] = []  # that answer at `urls`
        self.workers: dict[str, Process] = {}  # by name, also those that have ended
        self.urls: list[str] = []
        self.database = Database(settings["DATABASE_URL"])
        farm_settings = {
            "MODEL_ROOTS": str(self.models), "SCRATCH": str(state / "scratch"), "LEASE_SECONDS": "4",
            "CACHE": str(state / "cache"),  # not that of whoever runs the tests
            "SWEEP_SECONDS": "0.5", "WORKER_SECONDS": "6", "LINK_SECRET": "s" * 32, "KILL_SECONDS": "1",
            # Complete where the tests run on a machine that allows it; `tests/attack/test_sandbox.py` requires it.
            "SANDBOX": "auto", **settings,
        }  # fmt: skip
        clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        path = {"PYTHONPATH": f"{CHECKOUT}:{QUICK}"}
        self.environment = clean | path | {PREFIX + name: value for name, value in farm_settings.items()}
        set_up_new_farm(Settings.from_environment(self.environment))

    def add_model(self, name: str = "tiny", content: bytes | None = None) -> str:
        """Make a folder that passes for a model with all but a real toolchain; return its reference.

        Without `content` the weights depend on the name, so that no other model shares its checkpoint.
        """
        folder = self.models / name
        folder.mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(content or weights(name.encode()))
        return f"file:{folder}"

    def add_api(self, module: str = "api") -> str:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        process = self.start(module, f"api-{len(self.urls)}", {"PORT": str(port)})
        process.wait_until(lambda: answers(url), seconds=60)
        self.urls.append(url)
        self.apis.append(process)
        return url

    def kill_apis(self) -> None:
        """Kill every API; `urls` is empty until the next one is added."""
        for api in self.apis:
            api.kill()
        self.apis.clear()
        self.urls.clear()

    def add_worker(
        self, name: str, environment: Mapping[str, str] | None = None, *, module: str = "workers"
    ) -> Process:
        log = self._log(name)
        earlier_starts = log.read_text().count(_READY) if log.exists() else 0
        process = self.start(module, name, {"WORKER_NAME": name}, environment)
        process.wait_until(lambda: log.read_text().count(_READY) > earlier_starts, seconds=60)
        self.workers[name] = process
        return process

    def have_workers(self, *names: str) -> None:
        """Let these workers run and no others: start those that do not run, and stop the rest."""
        for name, worker in self.workers.items():
            if name not in names:
                worker.stop()
        for name in names:
            if name not in self.workers or self.workers[name].ended():
                self.add_worker(name)

    def start(
        self, module: str, name: str, settings: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start `python -m MODULE`, which may have arguments, and wait for nothing."""
        own_settings = {PREFIX + key: value for key, value in settings.items()}
        environment = {**self.environment, **own_settings, **(environment or {})}
        process = Process(name, [sys.executable, "-m", *module.split()], environment, self._log(name))
        self.processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.state / "logs" / f"{name}.log"

    def spec(self, model: str, **options: object) -> dict[str, Any]:
        return {"model": model, "toolchain": {"name": "quick"}, "options": options}

    def submit(self, spec: Mapping[str, Any], api: int = 0) -> dict[str, Any]:
        answer = httpx.post(f"{self.urls[api]}/v1/builds", json=dict(spec), timeout=60)
        assert answer.status_code in {200, 202}, answer.text
        return dict(answer.json())

    def build(self, build_id: str, api: int = 0) -> dict[str, Any]:
        return dict(httpx.get(f"{self.urls[api]}/v1/builds/{build_id}", timeout=30).json())

    def ended(self, build_id: str, *, seconds: float = 60) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            build = self.build(build_id)
            return build if build["state"] in {"succeeded", "failed", "cancelled"} else None

        return eventually(look, seconds=seconds)

    def running(self, build_id: str, stage: str) -> dict[str, Any]:
        """The build once its stage runs and has printed something."""

        def look() -> dict[str, Any] | None:
            build = self.build(build_id)
            return build if build["stage"] == stage and build["state"] == "running" else None

        return eventually(look)

    def outcomes(self, *keys: str) -> dict[tuple[str, str], int]:
        """How many attempts there are of each stage and outcome, in the whole farm or for the builds of these keys."""
        query = (
            select(ActionRow.stage, AttemptRow.outcome, func.count())
            .join(ActionRow, ActionRow.key == AttemptRow.action_key)
            .group_by(ActionRow.stage, AttemptRow.outcome)
        )
        if keys:
            converts = select(ActionRow.depends_on).where(ActionRow.key.in_(keys))
            query = query.where(ActionRow.key.in_(keys) | ActionRow.key.in_(converts))
        with self.database.read() as session:
            return {(stage, outcome): count for stage, outcome, count in session.execute(query)}

    def close(self) -> None:
        for worker in self.workers.values():  # all at once, because each takes a moment
            if not worker.ended():
                os.kill(worker.pid, signal.SIGTERM)
        for process in reversed(self.processes):
            process.stop()
        self.database.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
