"""What a stage says of itself on its way into the catalogue."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import event

from migrations.upgrade import upgrade
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from tests.models.requests import add_worker, claim_now, new_request, submit_request
from toolchains.toolchain import Report
from workers.heartbeat import Heartbeat
from workers.job_log import JobLog


def test_progress_never_falls_back(tmp_path: Path) -> None:
    database, wanted = Database(f"sqlite:///{tmp_path / 'catalogue.db'}"), new_request()
    upgrade(database.engine)
    submit_request(database, wanted)
    add_worker(database)
    held = claim_now(database, wanted.convert.key)
    beat = Heartbeat(
        database, held, JobLog(tmp_path / "log"), lease_seconds=30, stop=threading.Event(), leaving=threading.Event()
    )
    for report in (Report(0.8, "rank 0"), Report(0.3, "rank 1"), Report(None, "rank 1 goes on")):
        beat.report(report)
    beat.renew()
    with database.read() as session:
        row = session.get_one(ActionRow, held.key)
        assert row.progress == pytest.approx(0.8)
        assert row.message == "rank 1 goes on"
    database.close()


def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_runs_out(tmp_path: Path) -> None:
    """A little is waited out; then the programs end, while nobody else can have the action yet."""
    database, wanted = Database(f"sqlite:///{tmp_path / 'catalogue.db'}"), new_request()
    upgrade(database.engine)
    submit_request(database, wanted)
    add_worker(database)
    held, since = claim_now(database, wanted.convert.key), time.monotonic()
    joblog, stop = JobLog(tmp_path / "log"), threading.Event()
    event.listen(database.engine, "do_connect", _away)
    database.engine.dispose()
    with Heartbeat(database, held, joblog, lease_seconds=5, stop=stop, leaving=threading.Event()) as beat:
        assert stop.wait(60)
        assert beat.lost is not None
        assert "could not be renewed: the catalogue" in beat.lost
    assert time.monotonic() - since >= 5 * 0.5  # an outage of a moment ends nothing
    database.close()


def test_a_catalogue_that_does_not_answer_at_all_keeps_no_programs_running(tmp_path: Path) -> None:
    database, wanted = Database(f"sqlite:///{tmp_path / 'catalogue.db'}"), new_request()
    upgrade(database.engine)
    submit_request(database, wanted)
    add_worker(database)
    held = claim_now(database, wanted.convert.key)
    joblog, stop = JobLog(tmp_path / "log"), threading.Event()
    silent = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
    silent.execute("BEGIN IMMEDIATE")  # whoever wants to write now waits for half a minute
    with Heartbeat(database, held, joblog, lease_seconds=5, stop=stop, leaving=threading.Event()) as beat:
        assert stop.wait(25)
        silent.execute("ROLLBACK")
        assert beat.lost == "the lease could not be renewed"
    silent.close()
    database.close()


def _away(*_: object) -> None:
    raise sqlite3.OperationalError("unable to open database file")
