"""How many connections to PostgreSQL the processes of a farm have, and that they give them back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import make_url, text

from models.catalogue import database as database_module
from models.catalogue.changes import listen_for_changes
from models.catalogue.database import POOL_SIZE, Database
from tests.farm.running_farm import eventually
from tests.servers.postgres import Databases


class Server:
    """The test's own database, counted from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        libpq_url = make_url(url).set(drivername="postgresql", database="postgres")
        self._connection = psycopg.connect(libpq_url.render_as_string(hide_password=False), autocommit=True)

    def connections(self, condition: str = "true") -> int:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND {condition}"
        row = self._connection.execute(query.encode(), (make_url(self.url).database,)).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def server(postgres: Databases) -> Iterator[Server]:
    url = postgres.create()
    counted = Server(url)
    yield counted
    counted.close()
    postgres.drop(url)


def use_at_once(database: Database, number: int) -> None:
    """So many transactions, of which each has begun before the first one ends."""
    all_began = threading.Barrier(number)

    def transaction(_: int) -> None:
        with database.read() as session:
            session.execute(text("SELECT 1"))
            all_began.wait()

    with ThreadPoolExecutor(number) as threads:
        list(threads.map(transaction, range(number)))


def test_idle_connections_are_given_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "_KEPT_IDLE_SECONDS", 0.2)
    database = Database(server.url)
    use_at_once(database, POOL_SIZE)
    assert server.connections() == POOL_SIZE

    def gave_back() -> bool:
        database.ping()  # what a process at rest does now and then
        return server.connections() == 1

    eventually(gave_back)
    use_at_once(database, POOL_SIZE)
    assert server.connections() == POOL_SIZE, "there is room for the next burst"
    database.close()
    eventually(lambda: server.connections() == 0)


def test_a_worker_keeps_one_connection_of_two(server: Server) -> None:
    database = Database(server.url, pool_size=2, kept=1)
    use_at_once(database, 2)
    eventually(lambda: server.connections() == 1)
    database.close()


def test_fifty_workers_and_four_apis_fit_the_default_of_postgresql(server: Server) -> None:
    """All API processes are at their most, while every worker sends heartbeats from two threads."""
    apis = [Database(server.url) for _ in range(4)]
    submits = [Database(server.url, pool_size=1) for _ in apis]
    listeners = [listen_for_changes(api) for api in apis]
    workers = [Database(server.url, pool_size=2, kept=1) for _ in range(50)]
    most = 0
    with ThreadPoolExecutor(8) as threads:
        for api, submit in zip(apis, submits, strict=True):
            use_at_once(api, POOL_SIZE)
            submit.ping()
        for _ in range(2):
            for beat in [threads.submit(worker.ping) for worker in workers * 2]:
                beat.result()
                most = max(most, server.connections())
    assert server.connections("state = 'idle in transaction'") == 0
    assert 50 + 4 * (POOL_SIZE + 2) <= most <= 97, "PostgreSQL keeps 3 of its 100 for administrators"
    for listener in listeners:
        assert listener is not None
        listener.close()
    for database in (*apis, *submits, *workers):
        database.close()
