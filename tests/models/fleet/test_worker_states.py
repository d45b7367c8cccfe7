"""A quarantined worker is stored as quarantined, and programs of before revision 0007 share the catalogue.

Such a program stores `draining` with `quarantined_at`, and refuses new work only while its row is `draining`.
"""

from __future__ import annotations

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import REVISION, WorkerRow
from models.fleet.registration import deregister
from models.fleet.roster import list_workers, live_workers, quarantined_workers
from models.fleet.worker_control import drain, quarantine, release
from models.lifecycle.leases import claim_action
from tests.models.requests import add_worker, new_request, submit_request


def stored_state(database: Database, worker_id: str = "w1") -> str:
    with database.read() as session:
        return session.get_one(WorkerRow, worker_id).state


def shown_state(database: Database) -> str:
    with database.read() as session:
        [worker] = list_workers(session, include_gone=True)
    return worker.state


def becomes_older_program(database: Database, **values: object) -> None:
    """The row as a program of before 0007 leaves it."""
    with database.write() as session:
        session.execute(update(WorkerRow).values(catalogue_revision=None, **values))


def test_a_quarantined_worker_is_stored_as_quarantined_and_a_drained_one_as_draining(database: Database) -> None:
    add_worker(database)
    with database.write() as session:
        assert session.get_one(WorkerRow, "w1").catalogue_revision == REVISION
        drain(session, "w1")
    assert stored_state(database) == "draining"
    with database.write() as session:
        quarantine(session, "w1", "bad memory")
        drain(session, "w1")  # a drain does not weaken a quarantine
    assert stored_state(database) == "quarantined"
    add_worker(database)  # it reports again
    assert stored_state(database) == "quarantined"
    with database.write() as session:
        deregister(session, "w1")
        quarantine(session, "w1", "bad memory again")
    assert stored_state(database) == "gone"
    with database.write() as session:
        release(session, "w1")
    assert stored_state(database) == "gone"
    add_worker(database)
    assert stored_state(database) == "live"


def test_a_quarantine_reaches_a_worker_of_an_older_program(database: Database) -> None:
    add_worker(database)
    becomes_older_program(database)
    with database.write() as session:
        quarantine(session, "w1", "bad memory")
    assert stored_state(database) == "draining"  # all that such a program refuses work on
    assert shown_state(database) == "quarantined"


def test_a_quarantine_stored_by_an_older_program_counts_as_one(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    becomes_older_program(database, state="draining", quarantined_at=now(), quarantine_reason="sick")
    assert shown_state(database) == "quarantined"
    with database.write() as session:
        assert live_workers(session) == []
        assert [worker.id for worker in quarantined_workers(session)] == ["w1"]
        assert claim_action(session, build_request.convert.key, "w1", lease_seconds=30) is None
        release(session, "w1")
        assert claim_action(session, build_request.convert.key, "w1", lease_seconds=30) is not None


def test_a_quarantined_worker_without_a_time_is_refused_by_the_schema(database: Database) -> None:
    add_worker(database)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(update(WorkerRow).values(state="quarantined"))
