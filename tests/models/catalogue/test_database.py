"""Readers of the catalogue see one state of it, on both databases."""

from __future__ import annotations

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
