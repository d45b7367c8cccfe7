"""Listings of engines: pages, and rows that cannot be read, which are left out while the others are served."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from enginefarm.contract.errors import InvalidRequest
from models.catalogue.database import Database
from models.catalogue.pagination import to_cursor
from models.catalogue.rows import EngineRow
from models.queries.engines import find_engine, list_engines
from tests.models.requests import add_worker, new_request, submit_request
from tests.models.stage_runs import build_engine, run_build, run_convert


@pytest.mark.parametrize("platform", [{}, {"arch": 1}, {"arch": "x86_64", "gpu": []}])
def test_an_engine_whose_row_cannot_be_read_is_left_out(database: Database, platform: dict[str, object]) -> None:
    add_worker(database)
    good, evil = new_request("good"), new_request("evil")
    for request in (good, evil):
        build_engine(database, request)
    with database.write() as session:
        session.execute(update(EngineRow).where(EngineRow.key == evil.build.key).values(platform=platform))
    with database.read() as session:
        assert [engine.key for engine in list_engines(session, limit=10, cursor=None).items] == [good.build.key]
        assert find_engine(session, evil.build.key) is None
        assert find_engine(session, good.build.key) is not None


def test_pages_list_every_engine_once_also_those_of_one_instant(database: Database) -> None:
    add_worker(database)
    requests = [new_request(limits=limits) for limits in ("a", "b", "c", "d")]
    for number, request in enumerate(requests):
        submit_request(database, request)
        if number == 0:
            run_convert(database, request)
        run_build(database, request)
    with database.write() as session:
        last = session.scalars(select(EngineRow.created_at).order_by(EngineRow.created_at.desc())).first()
        session.execute(update(EngineRow).where(EngineRow.key != requests[0].build.key).values(created_at=last))
    keys: list[str] = []
    cursor = None
    with database.read() as session:
        while cursor is not None or not keys:
            page = list_engines(session, limit=1, cursor=cursor, model="llama")
            keys += [engine.key for engine in page.items]
            cursor = page.next_cursor
    assert sorted(keys) == sorted(request.build.key for request in requests)
    assert keys[-1] == requests[0].build.key  # the oldest


def test_a_cursor_of_an_earlier_release_is_refused_with_what_to_do(database: Database) -> None:
    offset = to_cursor(50)
    with database.read() as session, pytest.raises(InvalidRequest, match=r"earlier release.*list again"):
        list_engines(session, limit=10, cursor=offset)
