"""A listener hears of what other transactions change, on both databases and behind a pooler."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from enginefarm.contract.errors import DatabaseUnavailable
from enginefarm.wire.bodies import Failure, Fault
from models.catalogue.changes import CountedChanges, NotifiedChanges, listen_for_changes
from models.catalogue.database import Database
from models.lifecycle import logs
from models.lifecycle.leases import fail_attempt, renew
from models.lifecycle.submission import cancel
from tests.models.requests import add_worker, claim_now, new_request, submit_request
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Databases
from tests.servers.server import new_data_dir

_LONG_SECONDS = 20.0  # a change is heard in milliseconds, on a busy machine in less than this
_FAILURE = Failure(cause="program_failed", fault=Fault.WORKER, detail="it failed", advice="look", retryable=True)


@pytest.fixture
def on_postgresql(postgres: Databases) -> Iterator[Database]:
    url = postgres.create_migrated()
    database = Database(url)
    yield database
    database.close()
    postgres.drop(url)


def test_a_change_is_heard_at_once(database: Database) -> None:
    changes = listen_for_changes(database)
    assert changes is not None
    with closing(changes):
        assert not changes.wait(0.01)
        timer = threading.Timer(0.1, submit_request, (database, new_request()))
        timer.start()
        heard = changes.wait(_LONG_SECONDS if isinstance(changes, CountedChanges) else 0.5)
        timer.join()
        # PostgreSQL notifies of no new build: nobody can watch it yet.
        assert bool(heard) is isinstance(changes, CountedChanges)

        key = new_request().convert.key
        timer = threading.Timer(0.1, claim_now, (database, key, add_worker(database)))
        changes.wait(0)  # what the worker's registration committed
        timer.start()
        heard = changes.wait(_LONG_SECONDS)
        timer.join()
        assert heard.actions is None or heard.actions == {key}


def test_postgresql_notifies_of_each_change_that_a_watcher_can_see(on_postgresql: Database) -> None:
    request = new_request()
    build = submit_request(on_postgresql, request)
    key = request.convert.key
    add_worker(on_postgresql)
    changes = listen_for_changes(on_postgresql)
    assert isinstance(changes, NotifiedChanges)

    def heard() -> tuple[set[str], set[str]]:
        seen = changes.wait(_LONG_SECONDS)
        return set(seen.actions or ()), set(seen.logs or ())

    with closing(changes):
        claim = claim_now(on_postgresql, key)
        assert heard() == ({key}, set())
        with on_postgresql.write() as session:
            renew(session, claim, lease_seconds=60)
        with on_postgresql.write() as session:
            renew(session, claim, lease_seconds=60, progress=0.5)
        assert heard() == ({key}, set()), "of the progress; the heartbeat before it notified nobody"
        assert not changes.wait(0.05)
        with on_postgresql.write() as session:
            logs.append(session, key, claim.attempt, 0, b"one\n")
        assert heard() == (set(), {key})
        with on_postgresql.write() as session:
            fail_attempt(session, claim, _FAILURE, max_tries=3, steps={})
        assert heard() == ({key}, set())
        with on_postgresql.write() as session:
            cancel(session, build.id)
        assert heard() == ({key, request.build.key}, set())


def test_a_listener_is_in_no_transaction_and_outside_of_the_pool(on_postgresql: Database) -> None:
    changes = listen_for_changes(on_postgresql)
    assert isinstance(changes, NotifiedChanges)
    with closing(changes), on_postgresql.read() as session:
        states = text("SELECT state FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'")
        assert session.execute(states).scalars().all() == ["idle"]


def test_a_listener_is_told_that_its_connection_is_lost(on_postgresql: Database) -> None:
    changes = listen_for_changes(on_postgresql)
    assert isinstance(changes, NotifiedChanges)
    with closing(changes):
        with on_postgresql.read() as session:
            session.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )
        with pytest.raises(DatabaseUnavailable, match="the catalogue's database"):
            changes.wait(_LONG_SECONDS)


def test_nobody_listens_behind_a_pooler(postgres: Databases) -> None:
    url = postgres.create_migrated()
    folder = new_data_dir("pgbouncer")
    with PgBouncer(folder, postgres.url) as pooler:
        pooled = Database(pooler.through(url))
        assert listen_for_changes(pooled) is None
        with pooled.read() as session:
            assert session.execute(text("SELECT count(*) FROM pg_listening_channels()")).scalar_one() == 0
        pooled.close()
    postgres.drop(url)
    shutil.rmtree(folder)
