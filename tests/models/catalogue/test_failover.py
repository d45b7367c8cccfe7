"""A primary that dies, and the standby that takes its place."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from tests.farm.running_farm import eventually
from tests.servers.postgres import Postgres, Standby
from tests.servers.server import new_data_dir


@pytest.fixture
def primary() -> Iterator[Postgres]:
    data = new_data_dir("primary")
    with Postgres(data) as server:
        yield server
    shutil.rmtree(data)


@pytest.fixture
def standby(primary: Postgres) -> Iterator[Standby]:
    data = new_data_dir("standby")
    with Standby(data, primary) as server:
        yield server
    shutil.rmtree(data)


def write(database: Database) -> None:
    with database.write() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))


def has_table(database: Database) -> bool:
    with database.read() as session:
        return session.execute(text("SELECT to_regclass('t')")).scalar_one() is not None


def read_while_the_primary_truncates(standby: Session, primary: Database) -> None:
    count = text("SELECT count(*) FROM t")
    standby.execute(count)
    with primary.write() as session:
        session.execute(text("TRUNCATE t"))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        standby.execute(count)
        time.sleep(0.02)


def test_the_farm_follows_a_failover(primary: Postgres, standby: Standby) -> None:
    both = make_url(primary.url).set(host=None, port=None).render_as_string(hide_password=False)
    hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (primary, standby))
    with (
        closing(Database(f"{both}?{hosts}&target_session_attrs=read-write")) as farm,
        closing(Database(standby.url)) as misled,
    ):
        with farm.write() as session:
            session.execute(text("CREATE TABLE t (n int)"))
        eventually(lambda: has_table(misled))

        # A farm that was led to the standby reads, is not ready, and says why.
        with pytest.raises(DatabaseUnavailable, match=r"takes no writes: .*lead to the primary"):
            misled.ping()
        with pytest.raises(DatabaseUnavailable, match="takes no writes: cannot execute INSERT"):
            write(misled)
        with misled.snapshot() as session:
            assert session.execute(text("SELECT count(*) FROM t")).scalar_one() == 0

        # What the primary changes ends a reader of the standby that is in the way: the statement that it runs,
        # or, between two statements, its connection.
        with (
            pytest.raises(DatabaseUnavailable, match=r"conflict with recovery|closed the connection"),
            misled.snapshot() as session,
        ):
            read_while_the_primary_truncates(session, farm)

        primary.kill()
        with pytest.raises(DatabaseUnavailable):
            write(farm)
        standby.promote()
        write(farm)
        write(misled)
        farm.ping()
        misled.ping()
