"""The servers of every benchmark: PostgreSQL, Valkey, one API, one worker, and bare programs to compare with."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType

from benchmarks.bare_celery import TASK, application
from enginefarm.client.farm import Farm
from local.process import Process
from models.security.api_keys import Scope, create
from models.settings import Settings
from tests.farm.running_farm import CHECKOUT, RunningFarm, answers
from tests.servers.postgres import Postgres
from tests.servers.redis import Valkey
from tests.servers.server import free_port, new_data_dir

# The defaults of production: the farm of the tests has shorter ones.
PRODUCTION = {
    name.upper(): str(Settings.model_fields[name].default)
    for name in ("lease_seconds", "sweep_seconds", "worker_seconds", "kill_seconds")
}


class Ground:
    """A context. The farm starts with it, a bare program when it is first used.

    PostgreSQL is durable (fsync on), because a submit in production pays for that. The farm has an API key, as every
    farm has that a network can reach. Its toolchain is the tests' own and takes no time: the time that is measured is
    the farm's.
    """

    def __enter__(self) -> Ground:
        with ExitStack() as stack:
            self._stack = stack
            self._folder = self._new_folder("benchmark")
            self.postgres = stack.enter_context(Postgres(self._new_folder("postgres"), durable=True))
            self.valkey = stack.enter_context(Valkey(self._new_folder("valkey")))
            self.database_url = self.postgres.create_database()
            addresses = {
                "DATABASE_URL": self.database_url,
                "BROKER_URL": self.valkey.url,
                "STORE_URL": f"file://{self._folder}/store",
            }
            self.farm = RunningFarm(self._folder, {**PRODUCTION, **addresses})
            stack.callback(self.farm.close)
            with self.farm.database.write() as session:
                self.key = create(session, "benchmark", [Scope.SUBMIT])
            self.farm.add_api()
            self.farm.add_worker("worker")
            self.client = stack.enter_context(Farm(self.farm.urls[0], api_key=self.key))
            self.model = self.farm.add_model()
            # Everything runs: from here on `__exit__` stops it, and until here the `with` does.
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add_api(self, settings: Mapping[str, str]) -> tuple[int, Process]:
        """The port and the process of one more API, with these settings beside those of the farm."""
        port = free_port()
        process = self.farm.start("api", f"api-{port}", {"PORT": str(port), **settings})
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}"), seconds=60)
        return port, process

    @property
    def ports(self) -> list[int]:
        """Of the farm's first API, in a list as `benchmarks.http_load` wants it."""
        return [int(self.farm.urls[0].rpartition(":")[2])]

    @cached_property
    def bare_route(self) -> tuple[int, Process]:
        """Its port, and its process."""
        port = free_port()
        postgres = self.database_url.replace("+psycopg", "")
        process = self._run("bare_route", str(port), postgres)
        process.wait_until(lambda: _listens(port), seconds=60)
        return port, process

    @cached_property
    def bare_celery(self) -> Process:
        process = self._run("bare_celery", self.bare_broker)
        result = application(self.bare_broker).send_task(TASK)
        process.wait_until(result.ready, seconds=60)
        return process

    @property
    def bare_broker(self) -> str:
        # Another database of the same server, so that no message of one program reaches the other.
        return self.valkey.url.removesuffix("/0") + "/1"

    def _run(self, program: str, *arguments: str) -> Process:
        argv = [sys.executable, "-m", f"benchmarks.{program}", *arguments]
        process = Process(program, argv, {"PYTHONPATH": str(CHECKOUT)}, self._folder / "logs" / f"{program}.log")
        self._stack.callback(process.stop)
        return process

    def _new_folder(self, name: str) -> Path:
        folder = new_data_dir(name)
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
