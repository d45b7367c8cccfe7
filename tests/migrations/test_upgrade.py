"""Data stays safe across versions: a populated catalogue of version 0001 is led to this one, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, select

from enginefarm.wire.bodies import BuildState
from migrations.drift import drift
from migrations.upgrade import config, upgrade, versions
from models.catalogue.database import Database
from models.lifecycle.leases import expire
from models.queries.builds import get_build, list_builds
from models.queries.engines import get_engine, list_engines
from models.settings import Settings
from tests.migrations.populated import BUILD, ROWS, populate, reflected


def _revisions() -> list[str]:
    return [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Populated, at version 0001."""
    postgres = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if postgres else f"sqlite:///{tmp_path / 'catalogue.db'}"
    made = Database(url)
    upgrade(made.engine, "0001")
    with made.engine.begin() as connection:
        populate(connection)
    yield made
    made.close()


def _kept(connection: Connection, name: str) -> list[dict[str, Any]]:
    """The rows of a table, reduced to the columns that version 0001 wrote."""
    table = reflected(connection, name)
    wrote = {column for row in ROWS[name] for column in row}
    found = connection.execute(select(*(table.c[column] for column in sorted(wrote)))).mappings()
    return [{column: value for column, value in row.items() if value is not None} for row in found]


def _by_content(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted((name, value) for name, value in row.items() if value is not None)) for row in rows)


def _assert_nothing_lost(engine: Engine) -> None:
    with engine.connect() as connection:
        for name, rows in ROWS.items():
            assert _by_content(_kept(connection, name)) == _by_content(rows), name


def test_every_step_keeps_every_row(database: Database) -> None:
    for revision in _revisions():
        upgrade(database.engine, revision)
        _assert_nothing_lost(database.engine)
    assert drift(database.engine) == []


def test_at_once_is_the_same_as_step_by_step(database: Database) -> None:
    upgrade(database.engine)
    _assert_nothing_lost(database.engine)
    assert versions(database.engine) == (_revisions()[-1],) * 2
    upgrade(database.engine)  # again changes nothing
    _assert_nothing_lost(database.engine)


def test_the_code_of_today_works_on_rows_of_then(database: Database) -> None:
    upgrade(database.engine)
    with database.read() as session:
        assert [build.state for build in list_builds(session, limit=10, cursor=None).items] == [
            BuildState.QUEUED, BuildState.FAILED, BuildState.CANCELLED, BuildState.RUNNING, BuildState.SUCCEEDED,
            BuildState.SUCCEEDED,
        ]  # fmt: skip
        assert [engine.key for engine in list_engines(session, limit=10, cursor=None).items] == [BUILD]
        assert [entry.size for entry in get_engine(session, BUILD).contents] == [0, 1 << 40]
        assert get_engine(session, BUILD).pinned
        assert get_build(session, f"{5:032x}").error is not None


def test_a_lease_of_then_runs_out_now(database: Database) -> None:
    """A worker of the old version died with the upgrade: its action is free again."""
    upgrade(database.engine)
    with database.write() as session:
        expire(session, max_tries=Settings.model_fields["max_tries"].default)
    with database.read() as session:
        assert get_build(session, f"{3:032x}").state is BuildState.QUEUED
