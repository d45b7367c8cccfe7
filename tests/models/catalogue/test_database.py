"""Readers of the catalogue see one state of it, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy.pool import QueuePool

from enginefarm.contract.errors import DatabaseUnavailable
from models.catalogue.database import Database
from models.catalogue.rows import BuildRow
from models.lifecycle.submission import cancel
from models.queries.builds import get_build
from tests.models.requests import new_request, submit_request


def test_a_snapshot_is_one_state_of_the_catalogue(database: Database) -> None:
    """Not a build that is open with an action that is cancelled."""
    build_id = submit_request(database, new_request()).id
    with database.snapshot() as session:
        assert session.query(BuildRow).count() == 1
        with database.write() as other:
            cancel(other, build_id)
        assert get_build(session, build_id).state == "queued"
    with database.snapshot() as session:
        assert get_build(session, build_id).state == "cancelled"


def test_a_session_that_gets_no_connection_of_the_pool_is_an_outage(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgres_url, pool_size=1)
    assert isinstance(database.engine.pool, QueuePool)
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)
    with database.read() as session:
        session.connection()
        with pytest.raises(DatabaseUnavailable, match="in use for too long"):
            database.ping()
    database.ping()
    database.close()
