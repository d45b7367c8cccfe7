"""Migrations of a full catalogue run beside a farm at work: PostgreSQL, with writers that never stop."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, event, text

import migrations.upgrade
from enginefarm.contract.errors import DatabaseUnavailable
from migrations.drift import drift
from migrations.upgrade import downgrade, upgrade, versions
from models.catalogue.database import Database
from models.catalogue.rows import REVISION
from tests.migrations import catalogue_0006
from tests.migrations.tables import insert_rows
from tests.servers.postgres import Databases

_BEFORE = "0011"  # the last revision whose migration was not written for a farm at work
_WRITES = [
    "INSERT INTO blobs (digest, size) VALUES (:text, 1)",
    "UPDATE engines SET pulled_at = clock_timestamp()",
    "UPDATE builds SET requested_by = 'writer'",
    "UPDATE checkpoints SET attempt = attempt",
    "UPDATE workers SET last_seen_at = clock_timestamp()",
]


@pytest.fixture(scope="module")
def populated_url(postgres: Databases) -> Iterator[str]:
    """A populated catalogue at the last revision that was not written for a farm at work."""
    url = postgres.create()
    database = Database(url)
    upgrade(database.engine, "0006")
    with database.engine.begin() as connection:
        insert_rows(connection, catalogue_0006.ROWS)
    upgrade(database.engine, _BEFORE)
    database.close()
    yield url
    postgres.drop(url)


@pytest.fixture
def catalogue(postgres: Databases, populated_url: str) -> Iterator[Database]:
    url = postgres.copy(populated_url)
    database = Database(url)
    yield database
    database.close()
    postgres.drop(url)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """The statements that the block runs, in order."""
    recorded: list[str] = []

    def record(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        recorded.append(" ".join(statement.split()))

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield recorded
    finally:
        event.remove(engine, "before_cursor_execute", record)


def test_no_statement_of_a_migration_stops_writers(catalogue: Database) -> None:
    """Indexes are built concurrently, tables are locked for an instant within a time limit, and no row is changed."""
    with statements(catalogue.engine) as recorded:
        upgrade(catalogue.engine)
        downgrade(catalogue.engine, _BEFORE)
    new_tables = set(re.findall(r"CREATE TABLE (\w+)", " ".join(recorded)))
    is_limited = False
    for statement in recorded:
        if "lock_timeout" in statement:
            is_limited = True
        if re.match(r"(CREATE|DROP) (UNIQUE )?INDEX", statement) and not set(statement.split()) & new_tables:
            assert " CONCURRENTLY " in statement
            is_limited = False
        if re.match(r"(ALTER|CREATE|DROP) TABLE", statement):
            assert is_limited, statement
            assert not re.search(
                r" (TYPE|SET NOT NULL|FOREIGN KEY|CHECK)\b(?!.*NOT VALID)", statement.partition("(")[0]
            )
        if re.match(r"(INSERT|UPDATE|DELETE)", statement):
            assert "alembic_version" in statement


def test_two_upgrades_and_writers_at_once_all_end(catalogue: Database) -> None:
    ended = threading.Event()
    with catalogue.read() as session:
        blobs = session.execute(text("SELECT count(*) FROM blobs")).scalar_one()

    def write() -> int:
        commits = 0
        while not ended.is_set():
            with catalogue.write() as session:
                for statement in _WRITES:
                    session.execute(text(statement), {"text": f"sha256:{commits:064}"} if ":text" in statement else {})
            commits += 1
        return commits

    with ThreadPoolExecutor(3) as threads:
        writer = threads.submit(write)
        upgrades = [threads.submit(upgrade, catalogue.engine) for _ in range(2)]
        try:
            for running in upgrades:
                running.result(timeout=120)
        finally:
            ended.set()
        commits = writer.result(timeout=30)
    assert versions(catalogue.engine) == (REVISION, REVISION)
    assert drift(catalogue.engine) == []
    with catalogue.read() as session:
        assert session.execute(text("SELECT count(*) FROM blobs")).scalar_one() == blobs + commits


def test_an_upgrade_gives_up_on_a_locked_table_and_tries_again(
    catalogue: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(catalogue.engine, "0013")
    monkeypatch.setattr(migrations.upgrade, "_LOCK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(migrations.upgrade, "_LOCK_ATTEMPTS", 1)
    with catalogue.write() as session:  # a transaction that has read a table, and does not end
        session.execute(text("SELECT count(*) FROM engines"))
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            upgrade(catalogue.engine)
        assert versions(catalogue.engine)[0] == "0013"
        monkeypatch.setattr(migrations.upgrade, "_LOCK_ATTEMPTS", 60)
        with ThreadPoolExecutor(1) as threads:
            upgrading = threads.submit(upgrade, catalogue.engine, "0014")
            with catalogue.write() as writer:
                writer.execute(text("UPDATE engines SET pulled_at = clock_timestamp()"))
            session.commit()
            upgrading.result(timeout=60)
    assert versions(catalogue.engine)[0] == "0014"


def test_an_index_whose_build_was_interrupted_is_built_again(catalogue: Database) -> None:
    upgrade(catalogue.engine, "0014")
    with catalogue.engine.begin() as connection:
        connection.execute(text("CREATE INDEX ix_engines_manifest ON engines (manifest)"))
        connection.execute(
            text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('ix_engines_manifest')")
        )
    upgrade(catalogue.engine)
    with catalogue.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")).scalar_one() == 0
    assert drift(catalogue.engine) == []
