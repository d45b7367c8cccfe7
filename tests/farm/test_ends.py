"""Workers end in order although the database or the broker is away; a process that lost a loop ends with status 70."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from tests.farm.conftest import run_farm
from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.postgres import Databases
from tests.servers.proxy import Proxy
from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir


@dataclass
class Outages:
    """A farm whose database and broker can be taken away from its workers and its API."""

    farm: RunningFarm
    broker: Valkey
    database_is_away: bool = False
    database_hangs: bool = False

    def cut(self, piece: bytes) -> bytes:
        """For the proxy before the database."""
        while self.database_hangs:
            time.sleep(0.05)
        if self.database_is_away:
            raise OSError
        return piece

    def end_outage(self) -> None:
        self.database_is_away = False
        if not self.broker.running:
            self.broker.start()

    def database_outage(self) -> None:
        self.database_is_away = True

    def broker_outage(self) -> None:
        self.broker.kill()


@pytest.fixture(scope="module")
def outages(postgres: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    url, state = make_url(postgres.create_migrated()), tmp_path_factory.mktemp("farm")
    with Valkey(new_data_dir("valkey")) as broker:
        outages = Outages(None, broker)  # type: ignore[arg-type]  # its proxy is needed first
        with Proxy(url.port or 0, alter=outages.cut) as proxy:
            settings = {
                "DATABASE_URL": url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False),
                "BROKER_URL": broker.url,
                "STORE_URL": f"file://{state / 'store'}",
            }
            for outages.farm in run_farm(state, settings):
                outages.farm.add_api()
                yield outages
    postgres.drop(url.render_as_string(hide_password=False))


# In a stage or idle; what is away; the signals; how the attempt ends.
ENDS = [
    pytest.param(True, Outages.broker_outage, [signal.SIGINT, signal.SIGINT], "handed_back", id="stage, no broker"),
    pytest.param(True, Outages.database_outage, [signal.SIGTERM], "lost", id="stage, no database"),
    pytest.param(False, Outages.broker_outage, [signal.SIGHUP, signal.SIGTERM], None, id="idle, no broker"),
]


@pytest.mark.parametrize(("in_stage", "begin_outage", "numbers", "outcome"), ENDS)
def test_a_worker_ends_in_order(
    outages: Outages,
    in_stage: bool,
    begin_outage: Callable[[Outages], None],
    numbers: list[int],
    outcome: str | None,
) -> None:
    farm = outages.farm
    name = f"worker-{len(farm.processes)}"
    worker = farm.add_worker(name)
    build = {"id": ""}
    if in_stage:
        build = farm.submit(farm.spec(farm.add_model(name), seconds=100))
        farm.running(build["id"], "build")
    try:
        begin_outage(outages)
        time.sleep(0.5)
        for number in numbers:
            os.kill(worker.pid, number)
        eventually(worker.ended, seconds=20)
    finally:
        outages.end_outage()
    log = worker.log.read_text()
    assert worker.status == 0, log
    assert "Traceback" not in log
    if outcome is not None:
        eventually(lambda: farm.build(build["id"])["attempts"][-1]["outcome"] == outcome, seconds=20)
        httpx.delete(f"{farm.urls[0]}/v1/builds/{build['id']}")


def test_an_api_ends_while_requests_wait_for_a_database_that_hangs(outages: Outages) -> None:
    url = outages.farm.add_api()
    api = outages.farm.processes[-1]
    outages.database_hangs = True
    try:
        clients = []
        for path in ("engines/" + "0" * 64, "builds", "builds/1?wait=60", "workers"):
            client = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
            client.sendall(f"GET /v1/{path} HTTP/1.1\r\nHost: {httpx.URL(url).netloc.decode()}\r\n\r\n".encode())
            clients.append(client)
        time.sleep(0.5)
        told_at = time.monotonic()
        os.kill(api.pid, signal.SIGTERM)
        eventually(api.ended, seconds=20)
        assert time.monotonic() - told_at < 14
    finally:
        outages.database_hangs = False
    for client in clients:
        client.close()
    log = api.log.read_text()
    assert api.status == 0, log
    assert "Traceback" not in log, log


def test_a_worker_that_loses_a_loop_hands_its_stage_back_and_exits_with_70(outages: Outages, tmp_path: Path) -> None:
    farm = outages.farm
    worker = farm.add_worker("mortal", module=f"tests.doubles.mortal workers {tmp_path / 'end'}")
    build = farm.submit(farm.spec(farm.add_model("mortal"), seconds=100))
    farm.running(build["id"], "build")
    (tmp_path / "end").touch()
    eventually(worker.ended, seconds=30)
    assert worker.status == 70
    line = "the report of this worker to the catalogue has ended: this process ends with status 70"
    assert line in worker.log.read_text()
    assert farm.build(build["id"])["attempts"][-1]["outcome"] == "handed_back"
    states = {row["name"]: row["state"] for row in httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"]}
    assert states.get("mortal", "gone") == "gone"


def test_an_api_that_loses_a_loop_exits_with_70(outages: Outages, tmp_path: Path) -> None:
    outages.farm.add_api(f"tests.doubles.mortal api {tmp_path / 'end'}")
    api = outages.farm.processes[-1]
    (tmp_path / "end").touch()
    eventually(api.ended, seconds=30)
    assert api.status == 70
    assert "the sweep has ended: this process ends with status 70" in api.log.read_text()


@pytest.mark.parametrize("module", ["api", "workers"])
def test_a_signal_during_the_start_leaves_no_traceback(outages: Outages, module: str) -> None:
    farm = outages.farm
    for seconds in (0.5, 1.5, 2.5):
        process = farm.start(module, f"{module}-{seconds}", {"WORKER_NAME": "starting", "PORT": "0"})
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGTERM)
        eventually(process.ended, seconds=20)
        assert "Traceback" not in process.log.read_text()
        assert process.status in {0, -signal.SIGTERM}
