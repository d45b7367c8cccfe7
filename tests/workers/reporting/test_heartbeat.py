"""The heartbeat renews the lease, sends the progress, and stops the programs when it cannot renew."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event

from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.lifecycle import leases
from models.loops import Loops
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker, claim_now, new_request, submit_request
from toolchains.toolchain import Report
from workers.reporting import heartbeat
from workers.reporting.heartbeat import Heartbeat
from workers.reporting.job_log import JobLog


def test_the_progress_of_a_stage_never_falls_back(tmp_path: Path) -> None:
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    beat = Heartbeat(
        database,
        claim,
        JobLog(tmp_path),
        lease_seconds=30,
        stop=threading.Event(),
        leaving=threading.Event(),
        loops=Loops(),
    )
    for report in (Report(0.8, "rank 0"), Report(0.3, "rank 1"), Report(None, "rank 1 goes on")):
        beat.report(report)
    renewals: list[float] = []
    beat.on_renewal = renewals.append
    beat.renew()
    assert len(renewals) == 1, "the supervisor of the program hears of it"
    with database.read() as session:
        row = session.get_one(ActionRow, claim.key)
        assert row.progress == pytest.approx(0.8)
        assert row.message == "rank 1 goes on"
    database.close()


def test_an_attempt_that_finishes_may_go_on_for_its_grace_when_the_worker_leaves() -> None:
    nothing: Any = SimpleNamespace(key="0" * 64)
    seconds, leaving = [100.0], threading.Event()
    beat = Heartbeat(
        nothing, nothing, nothing, lease_seconds=1000, stop=threading.Event(), leaving=leaving, loops=Loops(),
        clock=lambda: seconds[0],
    )  # fmt: skip
    beat.grace_seconds = 5.0
    beat.give_up_in_time()
    leaving.set()
    for now, stopped in ((110.0, False), (114.0, False), (115.0, True)):
        seconds[0] = now
        beat.give_up_in_time()
        assert beat.stop.is_set() is stopped
    assert beat.lost is None, "it is handed back"


def test_a_lease_that_cannot_be_renewed_is_given_up_before_it_expires(tmp_path: Path) -> None:
    """A short outage stops nothing; a longer one stops the programs before another worker may claim the action."""
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    claimed_at = time.monotonic()
    joblog, stop = JobLog(tmp_path), threading.Event()
    event.listen(database.engine, "do_connect", _away)
    database.engine.dispose()
    with Heartbeat(
        database, claim, joblog, lease_seconds=5, stop=stop, leaving=threading.Event(), loops=Loops()
    ) as beat:
        assert stop.wait(60)
        assert beat.lost is not None
        assert "could not be renewed: the catalogue" in beat.lost
    assert time.monotonic() - claimed_at >= 5 * 0.5  # a short outage stops nothing
    database.close()


def test_programs_are_stopped_when_the_catalogue_does_not_answer_at_all(tmp_path: Path) -> None:
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    joblog, stop = JobLog(tmp_path), threading.Event()
    other_writer = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
    other_writer.execute("BEGIN IMMEDIATE")  # every other writer waits for half a minute
    with Heartbeat(
        database, claim, joblog, lease_seconds=5, stop=stop, leaving=threading.Event(), loops=Loops()
    ) as beat:
        assert stop.wait(25)
        other_writer.execute("ROLLBACK")
        assert beat.lost == "the lease could not be renewed"
    other_writer.close()
    database.close()


def test_a_defect_in_a_renewal_does_not_end_the_renewals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    joblog, stop, loops = JobLog(tmp_path), threading.Event(), Loops()
    renew = leases.renew
    # Every second renewal fails.
    defects: list[Exception | None] = [None, KeyError("row"), None, StopIteration()]

    def defective_renew(*arguments: Any, **options: Any) -> None:
        defect = defects.pop() if defects else None
        if defect is not None:
            raise defect
        renew(*arguments, **options)

    monkeypatch.setattr(heartbeat, "renew", defective_renew)
    with Heartbeat(database, claim, joblog, lease_seconds=5, stop=stop, leaving=threading.Event(), loops=loops) as beat:
        assert not stop.wait(4.5)
        assert beat.lost is None
    assert loops.counters["the renewal of the lease"].failed == 2
    database.close()


def test_a_defect_that_lasts_stops_the_programs_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    joblog, stop = JobLog(tmp_path), threading.Event()

    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(heartbeat, "renew", defect)
    with Heartbeat(
        database, claim, joblog, lease_seconds=2, stop=stop, leaving=threading.Event(), loops=Loops()
    ) as beat:
        assert stop.wait(10)
        assert beat.lost == "the lease could not be renewed: ZeroDivisionError"
    database.close()


def test_a_message_of_a_program_can_be_stored(tmp_path: Path) -> None:
    database, request = Database(migrated_sqlite(tmp_path / "catalogue.db")), new_request()
    submit_request(database, request)
    add_worker(database)
    claim = claim_now(database, request.convert.key)
    beat = Heartbeat(
        database,
        claim,
        JobLog(tmp_path),
        lease_seconds=30,
        stop=threading.Event(),
        leaving=threading.Event(),
        loops=Loops(),
    )
    beat.report(Report(float("nan"), "a\0b\udcffc\x1b[2J"))
    assert beat.progress is None
    assert beat.message == "a\ufffdb\ufffdc\ufffd[2J"
    beat.renew()
    database.close()


def _away(*_: object) -> None:
    raise sqlite3.OperationalError("unable to open database file")
