"""A farm whose API and worker reach PostgreSQL through PgBouncer, which gives a connection away after a transaction."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

from enginefarm.client.farm import Farm
from tests.farm.conftest import fresh_broker, run_farm
from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir

_READERS = 12


@pytest.fixture(scope="module")
def pooler(postgres: Databases) -> Iterator[PgBouncer]:
    """A pooler with fewer connections to the server than the farm has to the pooler."""
    data = new_data_dir("pgbouncer")
    with PgBouncer(data, postgres.url, {"default_pool_size": "3"}) as server:
        yield server
    shutil.rmtree(data)


@pytest.fixture(scope="module")
def database_url(postgres: Databases) -> Iterator[str]:
    """The farm's database without the pooler."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="module")
def pooled_farm(
    pooler: PgBouncer, database_url: str, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFarm]:
    """Migrated through the pooler. A lease is longer than the outages of these tests."""
    state = tmp_path_factory.mktemp("pooled")
    settings = {
        "DATABASE_URL": pooler.through(database_url), "BROKER_URL": fresh_broker(valkey),
        "STORE_URL": f"file://{state / 'store'}", "LEASE_SECONDS": "30",
    }  # fmt: skip
    for farm in run_farm(state, settings):
        farm.add_api()
        farm.add_worker("w1")
        yield farm


class Readers:
    """Threads that read the farm again and again while the block runs. `statuses` counts the answers."""

    def __init__(self, farm: RunningFarm, *paths: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._urls = [farm.urls[0] + path for path in paths]
        self._finished = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(_READERS)]

    def _read(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._finished.is_set():
                for url in self._urls:
                    self.statuses[client.get(url).status_code] += 1

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        for thread in self._threads:
            thread.join()


def require_no_traceback(farm: RunningFarm) -> None:
    for log in (farm.state / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text(), log.name


def test_no_request_and_no_stage_fails_behind_a_pooler(pooled_farm: RunningFarm) -> None:
    build = pooled_farm.submit(pooled_farm.spec(pooled_farm.add_model("read"), seconds=1, convert_seconds=0.5))
    with Readers(pooled_farm, f"/v1/builds/{build['id']}", "/v1/engines", "/v1/workers", "/readyz") as readers:
        assert pooled_farm.ended(build["id"])["state"] == "succeeded"
    assert set(readers.statuses) == {200}
    assert readers.statuses.total() > 100
    assert {outcome for _, outcome in pooled_farm.outcomes()} == {"succeeded"}, "an attempt was lost"
    require_no_traceback(pooled_farm)


def test_a_build_is_watched_behind_a_pooler(pooled_farm: RunningFarm) -> None:
    build = pooled_farm.submit(pooled_farm.spec(pooled_farm.add_model("watched"), seconds=0.5))
    with Farm(pooled_farm.urls[0]) as client:
        assert "build ends" in "\n".join(client.logs(build["id"], follow=True))
        assert client.wait(build["id"], timeout=60).state == "succeeded"
    log = pooled_farm.state / "logs" / "api-0.log"
    assert "notifications do not pass a pooler" in log.read_text()


def test_a_stage_survives_a_pooler_that_restarts_and_a_database_that_takes_no_writes(
    pooled_farm: RunningFarm, pooler: PgBouncer, database_url: str
) -> None:
    spec = pooled_farm.spec(pooled_farm.add_model("interrupted"), seconds=6)
    build = pooled_farm.submit(spec)
    url = pooled_farm.urls[0]
    pooled_farm.running(build["id"], "build")
    with Readers(pooled_farm, f"/v1/builds/{build['id']}") as readers:
        pooler.kill()
        answer = httpx.get(f"{url}/v1/engines", timeout=60)
        assert answer.status_code == 503
        assert answer.json()["code"] == "database_unavailable"
        assert "Connection refused" in answer.json()["detail"] or "closed the connection" in answer.json()["detail"]
        pooler.start()
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)

        # As after a failover that left the pooler with the old primary.
        name = make_url(database_url).database
        administer(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        eventually(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        refused = httpx.post(f"{url}/v1/builds", json=spec | {"options": {"salt": "other"}}, timeout=60)
        assert refused.status_code == 503
        assert "takes no writes" in refused.json()["detail"]
        administer(database_url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert set(readers.statuses) <= {200, 503}
    assert pooled_farm.ended(build["id"])["state"] == "succeeded"
    assert {outcome for _, outcome in pooled_farm.outcomes()} == {"succeeded"}, "an attempt was lost"
    workers = eventually(lambda: httpx.get(f"{url}/v1/workers").json()["items"])
    assert [worker["name"] for worker in workers] == ["w1"]


def administer(url: str, statement: str) -> None:
    """Run a statement; then end the other sessions of the database, so that the next ones see its new defaults."""
    libpq_url = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(libpq_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(statement.encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
