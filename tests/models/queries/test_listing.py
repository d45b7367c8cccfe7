"""An engine's row that cannot be read is left out of listings and of lookups by key: the others are still served."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models.catalogue.database import Database
from models.catalogue.rows import EngineRow
from models.queries.engines import find_engine, list_engines
from tests.models.requests import add_worker, new_request
from tests.models.stage_runs import build_engine


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
