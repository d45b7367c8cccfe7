"""Pins are set and removed, and mean nothing for an engine that does not exist."""

from __future__ import annotations

import pytest

from enginefarm.contract.errors import NotFound
from models.catalogue.database import Database
from models.queries.engines import get_engine
from models.retention.pins import set_pin
from tests.models.requests import add_worker, new_request
from tests.models.stage_runs import build_engine


def test_a_pin_is_set_twice_and_removed(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_engine(database, build_request)
    for pinned in (True, True, False):
        with database.write() as session:
            set_pin(session, build_request.build.key, pinned=pinned)
            assert get_engine(session, build_request.build.key).pinned is pinned


def test_a_pin_on_an_unknown_engine_is_reported_when_the_engine_is_read(database: Database) -> None:
    with database.write() as session:
        set_pin(session, "0" * 64, pinned=True)
        with pytest.raises(NotFound):
            get_engine(session, "0" * 64)
