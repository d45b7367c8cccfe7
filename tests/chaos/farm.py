"""The farm under fire: its servers, two control planes, some workers, and what became of those that were lost."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from local.process import StartFailedError
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, WorkerRow
from models.catalogue.states import ActionState
from models.settings import PREFIX
from tests.chaos.backing_server import Part
from tests.chaos.supervised_process import Kept
from tests.farm.running_farm import RunningFarm, answers, s3_settings
from tests.servers.postgres import Postgres
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift
from tests.servers.server import Server, free_port, new_data_dir

_SETTINGS = {
    # Killed programs and workers must not fail builds by their number: what is asked is that each comes to its end.
    "MAX_TRIES": "100", "QUARANTINE_AFTER": "1000",
    # Collection takes what is ten seconds old, in the middle of everything else.
    "GC_GRACE_SECONDS": "0", "LINK_SECONDS": "10",
}  # fmt: skip

S = TypeVar("S", bound=Server)


@dataclass(frozen=True)
class Held:
    """An attempt that a worker has."""

    key: str
    attempt: int
    tries: int


@dataclass(frozen=True)
class Loss:
    """An attempt that lost its worker."""

    held: Held
    how: str
    at: datetime  # the database's clock
    moment: float  # time.monotonic()


class Farm:
    """Everything is started by the thread that makes it, for the kernel ends the servers with that thread."""

    def __init__(self, base: RunningFarm, database: Part, broker: Part, store: Part, *, workers: int) -> None:
        self.base, self.database, self.broker, self.store = base, database, broker, store
        self.losses: list[Loss] = []
        ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.apis = [self._api(f"api{number}", port) for number, port in enumerate(ports)]
        self.workers = [self._worker(f"w{number}") for number in range(workers)]

    @property
    def parts(self) -> Sequence[Part]:
        return (self.database, self.broker, self.store)

    @property
    def processes(self) -> Sequence[Kept]:
        return (*self.apis, *self.workers)

    def tend(self) -> None:
        """Bring back what is due; to be called often."""
        for part in self.parts:
            part.tend()
        for process in self.processes:
            process.tend()

    def bring_back(self, *, seconds: float = 120) -> None:
        """All of it, and wait until it works."""
        for part in self.parts:
            part.bring_back()
        deadline = time.monotonic() + seconds
        while not_ready := [process.name for process in self.processes if not process.calm]:
            if time.monotonic() > deadline:
                raise StartFailedError(f"not ready after {seconds:g} s: {not_ready}; logs are in {self.base.state}")
            self.tend()
            time.sleep(0.1)

    def held_by(self, worker: Kept) -> Held | None:
        """Raises DatabaseUnavailable."""
        query = (
            select(ActionRow.key, ActionRow.attempt, ActionRow.tries)
            .join(WorkerRow, WorkerRow.id == ActionRow.worker_id)
            .where(WorkerRow.name == worker.name, ActionRow.state == ActionState.RUNNING)
        )
        known = {(loss.held.key, loss.held.attempt) for loss in self.losses}  # held by those that had the name before
        with self.base.database.read() as session:
            rows = [Held(*row) for row in session.execute(query)]
        return next((held for held in rows if (held.key, held.attempt) not in known), None)

    def clock(self) -> datetime:
        """The database's. Raises DatabaseUnavailable."""
        with self.base.database.read() as session:
            return session.execute(select(now())).scalar_one()

    def close(self) -> None:
        for process in self.processes[::-1]:
            process.close()

    def _api(self, name: str, port: int) -> Kept:
        url = f"http://127.0.0.1:{port}"
        return self._kept(name, "api", {"PORT": str(port)}, lambda _: answers(url))

    def _worker(self, name: str) -> Kept:
        return self._kept(name, "workers", {"WORKER_NAME": name}, lambda log: "listening on" in log.read_text())

    def _kept(self, name: str, module: str, settings: Mapping[str, str], ready: Callable[[Path], bool]) -> Kept:
        environment = self.base.environment | {PREFIX + key: value for key, value in settings.items()}
        return Kept(name, [sys.executable, "-m", module], environment, self.base.state / "logs", ready)


@contextmanager
def farm(state: Path, settings: Mapping[str, str], *, workers: int) -> Iterator[Farm]:
    """A farm on servers of its own, which works when the block begins."""
    with ExitStack() as stack:
        postgres = _serve(stack, Postgres)
        valkey = _serve(stack, Valkey)
        swift = _serve(stack, Swift)
        where = {"DATABASE_URL": postgres.create_database(), "BROKER_URL": valkey.url, **s3_settings(swift)}
        base = RunningFarm(state, {**where, **_SETTINGS, **settings})
        stack.callback(base.close)
        parts = (Part("database", postgres), Part("broker", valkey), Part("store", swift))
        made = Farm(base, *parts, workers=workers)
        stack.callback(made.close)
        made.bring_back()
        yield made


def _serve(stack: ExitStack, kind: type[S]) -> S:
    data = new_data_dir(f"chaos-{kind.__name__.lower()}", xattrs=kind is Swift)
    stack.callback(shutil.rmtree, data)
    server = kind(data)
    stack.enter_context(server)
    return server
