"""The farm that the chaos run attacks: backing servers, two API processes, workers, and the attempts it lost."""

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
from tests.chaos.backing_server import BackingServer
from tests.chaos.supervised_process import SupervisedProcess
from tests.farm.running_farm import RunningFarm, answers, s3_settings
from tests.servers.pgbouncer import PgBouncer, pgbouncer_program
from tests.servers.postgres import Postgres
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift
from tests.servers.server import Server, free_port, new_data_dir

_SETTINGS = {
    # Kills count as tries and as failures of a worker. The run asks that every build ends well, however many kills
    # it meets, so neither limit may end it.
    "MAX_TRIES": "100", "QUARANTINE_AFTER": "1000",
    # Garbage collection removes blobs that are ten seconds old, while builds run.
    "GC_GRACE_SECONDS": "0", "LINK_SECONDS": "10",
}  # fmt: skip

S = TypeVar("S", bound=Server)


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt whose lease a worker holds."""

    key: str
    number: int
    tries: int


@dataclass(frozen=True)
class Loss:
    """An attempt that lost its worker to a fault."""

    attempt: RunningAttempt
    fault: str  # killed or frozen
    lost_at: datetime  # by the database's clock
    lost_at_monotonic: float  # time.monotonic()


class Farm:
    """Servers and processes start in the thread that creates this object: the kernel kills the servers when that
    thread ends (PR_SET_PDEATHSIG)."""

    def __init__(
        self,
        base: RunningFarm,
        database: BackingServer,
        broker: BackingServer,
        store: BackingServer,
        pooler: BackingServer | None,
        *,
        workers: int,
    ) -> None:
        self.base = base
        self.database = database
        self.broker = broker
        self.store = store
        self.pooler = pooler  # None: PgBouncer is not installed, and all processes reach the database directly
        self.losses: list[Loss] = []
        ports = [free_port() for _ in range(2)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.apis = [self._api(f"api{number}", port) for number, port in enumerate(ports)]
        self.workers = [self._worker(f"w{number}") for number in range(workers)]

    @property
    def servers(self) -> Sequence[BackingServer]:
        servers = (self.database, self.broker, self.store)
        return (*servers, self.pooler) if self.pooler else servers

    @property
    def processes(self) -> Sequence[SupervisedProcess]:
        return (*self.apis, *self.workers)

    def tend(self) -> None:
        """Bring back what is due. Call it often."""
        for server in self.servers:
            server.tend()
        for process in self.processes:
            process.tend()

    def bring_back(self, *, seconds: float = 120) -> None:
        """Bring every server and process back, and wait until all of them work.

        Raises:
            StartFailedError: one is not ready after `seconds`.
        """
        for server in self.servers:
            server.bring_back()
        deadline = time.monotonic() + seconds
        while not_ready := [process.name for process in self.processes if not process.calm]:
            if time.monotonic() > deadline:
                raise StartFailedError(f"not ready after {seconds:g} s: {not_ready}; logs are in {self.base.state}")
            self.tend()
            time.sleep(0.1)

    def attempts_of(self, worker: SupervisedProcess) -> list[RunningAttempt]:
        """The attempts that `worker` runs: one that computes, and one that finishes.

        Raises:
            DatabaseUnavailable
        """
        query = (
            select(ActionRow.key, ActionRow.attempt, ActionRow.tries)
            .join(WorkerRow, WorkerRow.id == ActionRow.worker_id)
            .where(WorkerRow.name == worker.name, ActionRow.state == ActionState.RUNNING)
        )
        # A worker that was started again has the same name: attempts that its predecessor lost are not its own.
        lost_before = {(loss.attempt.key, loss.attempt.number) for loss in self.losses}
        with self.base.database.read() as session:
            attempts = [RunningAttempt(*row) for row in session.execute(query)]
        return [attempt for attempt in attempts if (attempt.key, attempt.number) not in lost_before]

    def fetches_ahead(self, worker: SupervisedProcess) -> bool:
        """True if `worker` has reserved its next action softly: it fetches the inputs, or has just fetched them.

        Raises:
            DatabaseUnavailable
        """
        # Its last start: a reservation of its predecessor ends half a minute later only.
        newest = (
            select(WorkerRow.id).where(WorkerRow.name == worker.name).order_by(WorkerRow.started_at.desc()).limit(1)
        )
        query = select(ActionRow.key).where(
            ActionRow.prefetched_by == newest.scalar_subquery(),
            ActionRow.prefetched_until > now(),
            ActionRow.state == ActionState.QUEUED,
        )
        with self.base.database.read() as session:
            return session.execute(query.limit(1)).first() is not None

    def clock(self) -> datetime:
        """The database's clock.

        Raises:
            DatabaseUnavailable
        """
        with self.base.database.read() as session:
            return session.execute(select(now())).scalar_one()

    def stop_workers(self) -> None:
        """End the workers for good, all at once."""
        for worker in self.workers:
            worker.request_stop()
        for worker in self.workers:
            worker.close()

    def close(self) -> None:
        for process in self.processes[::-1]:
            process.close()

    def _api(self, name: str, port: int) -> SupervisedProcess:
        url = f"http://127.0.0.1:{port}"
        return self._supervised(name, "api", {"PORT": str(port)}, lambda _: answers(url))

    def _worker(self, name: str) -> SupervisedProcess:
        return self._supervised(name, "workers", {"WORKER_NAME": name}, lambda log: "listening on" in log.read_text())

    def _supervised(
        self, name: str, module: str, settings: Mapping[str, str], ready: Callable[[Path], bool]
    ) -> SupervisedProcess:
        environment = self.base.environment | {PREFIX + key: value for key, value in settings.items()}
        return SupervisedProcess(name, [sys.executable, "-m", module], environment, self.base.state / "logs", ready)


@contextmanager
def farm(state: Path, settings: Mapping[str, str], *, workers: int) -> Iterator[Farm]:
    """Run a farm on its own servers; it works when the block begins and is gone when it ends."""
    with ExitStack() as stack:
        postgres = _serve(stack, Postgres)
        valkey = _serve(stack, Valkey)
        swift = _serve(stack, Swift)
        addresses = {"DATABASE_URL": postgres.create_database(), "BROKER_URL": valkey.url, **s3_settings(swift)}
        base = RunningFarm(state, {**addresses, **_SETTINGS, **settings})
        stack.callback(base.close)
        servers = (BackingServer("database", postgres), BackingServer("broker", valkey), BackingServer("store", swift))
        pooler = _start_pooler(stack, postgres)
        if pooler is not None:
            # For the farm alone: who judges it asks the database directly.
            base.environment[f"{PREFIX}DATABASE_URL"] = pooler.through(addresses["DATABASE_URL"])
        pooler_server = BackingServer("pooler", pooler) if pooler else None
        target = Farm(base, *servers, pooler_server, workers=workers)
        stack.callback(target.close)
        target.bring_back()
        yield target


def _start_pooler(stack: ExitStack, postgres: Postgres) -> PgBouncer | None:
    if pgbouncer_program() is None:
        print("NO PGBOUNCER: the farm reaches its database without a pooler; on Debian: apt install pgbouncer")
        return None
    data = new_data_dir("chaos-pgbouncer")
    stack.callback(shutil.rmtree, data)
    settings = {"server_login_retry": "1", "query_wait_timeout": "15"}  # as docs/operations.md advises
    return stack.enter_context(PgBouncer(data, postgres.url, settings))


def _serve(stack: ExitStack, kind: type[S]) -> S:
    data = new_data_dir(f"chaos-{kind.__name__.lower()}", xattrs=kind is Swift)
    stack.callback(shutil.rmtree, data)
    server = kind(data)
    stack.enter_context(server)
    return server
