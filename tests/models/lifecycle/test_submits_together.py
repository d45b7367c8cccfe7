"""Submits that arrive together are recorded with the statements of one, as if they had come one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from enginefarm.contract.key import Key
from enginefarm.wire.bodies import BuildState, Disposition
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import BuildRow, EngineRow
from models.catalogue.states import ActionState
from models.lifecycle.action_rows import action_columns, insert_or_lock_all
from models.lifecycle.submission import Accepted, Request, submit_all
from tests.enginefarm.http_double import wait_until
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker, claim_now, new_request
from tests.models.stage_runs import build_engine
from tests.scale.plans import statements_of
from tests.servers.postgres import Databases

_BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
_MOST_STATEMENTS = 8  # with an action of each kind that is new and one that exists


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def catalogue(
    request: pytest.FixtureRequest, postgres: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    if request.param == "sqlite":
        url = migrated_sqlite(tmp_path_factory.mktemp("together") / "catalogue.db")
    else:
        url = postgres.create_migrated()
    database = Database(url)
    add_worker(database)
    yield database
    database.close()
    if request.param == "postgresql":
        postgres.drop(url)


def _submit(catalogue: Database, *requests: Request) -> tuple[list[Accepted], int]:
    """What was accepted, and how many statements that took."""
    with catalogue.write() as session, statements_of(session) as statements:
        accepted = submit_all(session, requests)
    return accepted, len(statements)


def _announced(accepted: Accepted) -> list[str]:
    return [key for key, _ in accepted.announcements]


def test_each_of_a_batch_gets_what_it_would_get_alone(catalogue: Database) -> None:
    served, converted, running = (new_request("one", limits) for limits in ("served", "converted", "running"))
    build_engine(catalogue, served)
    _submit(catalogue, running)
    claim_now(catalogue, running.build.key)
    new = new_request("one", "new")
    other = new_request("another")

    accepted, statements = _submit(catalogue, served, converted, running, new, other, new)

    assert [build.disposition for build in accepted] == [
        Disposition.CACHED, Disposition.CREATED, Disposition.JOINED, Disposition.CREATED, Disposition.CREATED,
        Disposition.JOINED,
    ]  # fmt: skip
    assert [build.state for build in accepted] == [
        BuildState.SUCCEEDED, BuildState.QUEUED, BuildState.RUNNING, BuildState.QUEUED, BuildState.QUEUED,
        BuildState.QUEUED,
    ]  # fmt: skip
    # Their checkpoint exists, so that the builds can run; the other model is converted first.
    assert [_announced(build) for build in accepted] == [
        [], [converted.build.key], [], [new.build.key], [other.convert.key], [],
    ]  # fmt: skip
    assert statements <= _MOST_STATEMENTS
    with catalogue.read() as session:
        for build, request in zip(accepted, (served, converted, running, new, other, new), strict=True):
            row = session.execute(select(BuildRow).where(BuildRow.id == build.id)).scalar_one()
            assert (row.key, row.disposition) == (request.build.key, build.disposition)


def test_a_large_batch_takes_no_more_statements_than_a_small_one(catalogue: Database) -> None:
    counts = []
    for size in (2, 100):
        requests = [new_request(f"{size} {number}") for number in range(size)]
        _, created = _submit(catalogue, *requests)
        _, joined = _submit(catalogue, *requests)
        counts.append((created, joined))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 4  # engines, convert actions, build actions, builds
    assert counts[0][1] <= 7  # those that exist are locked, and their checkpoints looked for


def test_a_withdrawn_engine_is_built_again_for_the_first_of_a_batch(catalogue: Database) -> None:
    request = new_request("withdrawn")
    build_engine(catalogue, request)
    with catalogue.write() as session:
        withdrawn = {"quarantined_at": now(), "quarantine_reason": "bad"}
        session.execute(update(EngineRow).where(EngineRow.key == request.build.key).values(**withdrawn))
    accepted, _ = _submit(catalogue, request, request)
    assert [build.disposition for build in accepted] == [Disposition.CREATED, Disposition.JOINED]
    assert [_announced(build) for build in accepted] == [[request.build.key], []]


def test_a_batch_that_joins_a_convert_sees_its_state(catalogue: Database) -> None:
    request = new_request("converting")
    _submit(catalogue, request)
    claim_now(catalogue, request.convert.key)
    [joined], _ = _submit(catalogue, request)
    assert (joined.disposition, joined.state) == (Disposition.JOINED, BuildState.RUNNING)


def test_batches_of_the_same_actions_in_other_orders_do_not_lock_each_other_out(catalogue: Database) -> None:
    requests = [new_request(f"crossed {model}", limits) for model in range(12) for limits in ("a", "b")]
    orders = []
    for seed in range(8):
        order = requests * 2
        random.Random(seed).shuffle(order)
        orders.append(order)

    def run(order: list[Request]) -> list[Accepted]:
        return _submit(catalogue, *order)[0]

    with ThreadPoolExecutor(len(orders)) as pool:
        answers = [build for batch in pool.map(run, orders) for build in batch]
    created = [build for build in answers if build.disposition is Disposition.CREATED]
    assert len(created) == len(requests)
    announced = [key for build in answers for key in _announced(build)]
    assert sorted(announced) == sorted({request.convert.key for request in requests})
    keys = [request.build.key for request in requests]
    with catalogue.read() as session:
        assert session.scalar(select(func.count()).where(BuildRow.key.in_(keys))) == len(answers)


def test_two_batches_wait_for_each_other_at_the_first_action(catalogue: Database) -> None:
    if catalogue.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    first, last = sorted((_new_convert(f"ordered {number}") for number in range(2)), key=itemgetter("key"))

    def insert_in_other_order() -> dict[Key, ActionState]:
        with catalogue.write() as session:
            return insert_or_lock_all(session, [last, first])

    with ThreadPoolExecutor(1) as pool, catalogue.write() as session:
        insert_or_lock_all(session, [first])
        states = pool.submit(insert_in_other_order)
        wait_until(lambda: _is_a_session_blocked(catalogue), seconds=20)
        # The other one has no action yet. If it had the last one, both would wait for ever.
        session.execute(text("SET LOCAL lock_timeout = '5s'"))
        assert insert_or_lock_all(session, [last]) == {}
        session.commit()
        assert states.result(20) == {first["key"]: ActionState.QUEUED, last["key"]: ActionState.QUEUED}


def _is_a_session_blocked(catalogue: Database) -> bool:
    # In a session of its own each time: a transaction sees one snapshot of the sessions.
    with catalogue.read() as session:
        return bool(session.scalar(_BLOCKED))


def _new_convert(model: str) -> dict[str, Any]:
    action = new_request(model).convert
    return action_columns(
        action.key, action.stage, action.queue, action.document, action.work, None, ActionState.QUEUED, None
    )
