"""What a stage says of itself on its way into the catalogue."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from migrations.upgrade import upgrade
from models.database import Database
from models.rows import ActionRow
from tests.models.requests import add_worker, claimed, request, submitted
from toolchains.toolchain import Report
from workers.heartbeat import Heartbeat
from workers.joblog import JobLog


def test_progress_never_falls_back(tmp_path: Path) -> None:
    database, wanted = Database(f"sqlite:///{tmp_path / 'catalogue.db'}"), request()
    upgrade(database.engine)
    submitted(database, wanted)
    add_worker(database)
    held = claimed(database, wanted.convert.key)
    beat = Heartbeat(
        database, held, JobLog(tmp_path / "log"), lease_seconds=30, stop=threading.Event(), leaving=threading.Event()
    )
    for report in (Report(0.8, "rank 0"), Report(0.3, "rank 1"), Report(None, "rank 1 goes on")):
        beat.report(report)
    beat.renew()
    with database.read() as session:
        row = session.get_one(ActionRow, held.key)
        assert (row.progress, row.message) == (pytest.approx(0.8), "rank 1 goes on")
    database.close()
