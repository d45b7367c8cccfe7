"""No read asks for each row of its page, and none reads a large table from beginning to end: 20,000 engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from enginefarm.wire.bodies import BuildState
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, EngineRow
from models.lifecycle import recovery
from models.queries.builds import list_builds
from tests.migrated import migrated_sqlite
from tests.models.requests import SPEC, add_worker, new_request
from tests.models.stage_runs import build_engine
from tests.scale.calls import calls
from tests.scale.fill import Size, Template, fill
from tests.scale.plans import plan_of, scans_of_large_tables, statements_of
from tests.servers.postgres import Databases

SIZE = Size(engines=20_000, builds=20_000, queued=2_000)
MOST_STATEMENTS = 9  # of a build that is read alone, with its attempts


@pytest.fixture(scope="module")
def catalogue(postgres: Databases) -> Iterator[Database]:
    url = postgres.create_migrated()
    database = Database(url)
    worker = add_worker(database)
    request = dataclasses.replace(new_request(), spec=SPEC.model_dump(mode="json"))
    build_id = build_engine(database, request)
    with database.write() as session:
        session.execute(update(EngineRow).values(spec=request.spec))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        fill(connection, Template(request.convert.key, request.build.key, build_id, worker), SIZE)
    yield database
    database.close()
    postgres.drop(url)


def test_no_read_scans_a_large_table(catalogue: Database) -> None:
    scans: dict[str, list[str]] = {}
    for call in calls(catalogue, SIZE.engines):
        with Session(catalogue.engine) as session:
            with statements_of(session) as statements:
                call.run(session)
            session.rollback()
            for statement in statements:
                found = scans_of_large_tables(plan_of(session, statement, analyze=False))
                if call.name.startswith("gc:"):
                    # A batch is a large part of so few checkpoints (2,500): reading all is the best plan.
                    found = [scan for scan in found if scan != "Seq Scan of checkpoints"]
                if found:
                    scans.setdefault(call.name, []).extend(found)
    assert scans == {}


def test_every_read_takes_few_statements(catalogue: Database) -> None:
    counts: dict[str, int] = {}
    for call in calls(catalogue, SIZE.engines):
        with Session(catalogue.engine) as session, statements_of(session) as statements:
            call.run(session)
            session.rollback()
        counts[call.name] = len(statements)
    assert {name: count for name, count in counts.items() if count > MOST_STATEMENTS} == {}


@pytest.mark.parametrize("state", [None, *BuildState])
def test_a_long_page_takes_no_more_statements_than_a_short_one(catalogue: Database, state: BuildState | None) -> None:
    counts = []
    for limit in (5, 200):
        with Session(catalogue.engine) as session, statements_of(session) as statements:
            list_builds(session, limit=limit, cursor=None, state=state)
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_the_position_in_a_queue_is_exact(catalogue: Database) -> None:
    ahead = aliased(ActionRow)
    with catalogue.read() as session:
        page = list_builds(session, limit=60, cursor=None, state=BuildState.QUEUED)
        positions = {build.key: build.queue_position for build in page.items}
        in_front = (ahead.queue == ActionRow.queue) & (ahead.queued_at < ActionRow.queued_at)
        query = select(ActionRow.key, func.count(ahead.key)).outerjoin(ahead, in_front & (ahead.state == "queued"))
        counted = query.where(ActionRow.key.in_(positions)).group_by(ActionRow.key)
        assert positions == {key: count for key, count in session.execute(counted)}  # noqa: C416
    assert len(set(positions.values())) > 1


def test_the_sweep_counts_no_further_than_it_needs(catalogue: Database) -> None:
    with catalogue.read() as session:
        assert set(recovery.count_due_by_queue(session, most=7).values()) == {7}
        # With the conversions that other builds wait for.
        assert sum(recovery.count_due_by_queue(session).values()) == SIZE.queued * 11 // 10


FILTERS: list[dict[str, str]] = [
    {"state": "failed"}, {"state": "running"}, {"state": "queued"}, {"model": "hf:org/tiny"}, {"model": "file:/a@b"},
    {"toolchain": "aoti"}, {"platform": "cpu"}, {"requested_by": "ann"},
]  # fmt: skip


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_a_page_of_builds_on_sqlite_comes_from_an_index_without_a_sort(tmp_path: Path, filters: dict[str, str]) -> None:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    with Session(database.engine) as session:
        with statements_of(session) as statements:
            list_builds(session, limit=50, cursor=None, **filters)
        page = statements[0]
        rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {page.text}", page.parameters)
        plan = [row.detail for row in rows]
    database.close()
    assert [step for step in plan if "TEMP B-TREE" in step or step == "SCAN builds"] == []
    assert any("ix_builds" in step for step in plan), plan
