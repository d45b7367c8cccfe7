"""A worker's row that cannot be read is left out: a worker's account must not stop submits and the sweep of all."""

from __future__ import annotations

import logging

import pytest

from models.catalogue.database import Database
from models.fleet import roster
from models.fleet.registration import deregister
from models.fleet.roster import list_workers, live_workers, workers_serving
from models.lifecycle.recovery import count_due_by_queue
from tests.models.requests import CPU, HOST, add_worker, claim_now, new_request, submit_request

INSERT = (
    "INSERT INTO workers (id, name, state, platform, host, capabilities, queues) "
    "VALUES ('evil', 'a-worker', 'live', '{platform}', '{host}', '{capabilities}', '{queues}')"
)
GOOD = {
    "platform": CPU.model_dump_json(), "host": HOST.model_dump_json(), "capabilities": "[]", "queues": "[]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("platform", '"x"'), ("platform", "{}"), ("platform", '{"arch": "\\ud800"}'), ("host", "[]"),
        ("capabilities", '[{"toolchain": 1}]'), ("capabilities", '{"a": 1}'), ("queues", "[1]"), ("queues", "null"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_left_out(
    database: Database, caplog: pytest.LogCaptureFixture, field: str, value: str
) -> None:
    roster._warn_once.cache_clear()
    add_worker(database, "honest")
    with database.write() as session:
        session.connection().exec_driver_sql(INSERT.format(**GOOD | {field: value}))
    with caplog.at_level(logging.WARNING), database.read() as session:
        for _ in range(2):
            assert [worker.id for worker in live_workers(session)] == ["honest"]
        assert [worker.id for worker in list_workers(session, include_gone=True)] == ["honest"]
        workers_serving(session, "build.q")
        count_due_by_queue(session)
    assert caplog.text.count("worker 'a-worker' ('evil') is left out") == 1


def test_a_worker_lists_the_latest_action_as_running_and_earlier_ones_as_finishing(database: Database) -> None:
    add_worker(database, "w1")
    keys = []
    for model in ("llama", "qwen"):
        request = new_request(model)
        submit_request(database, request)
        claim_now(database, request.convert.key, "w1")
        keys.append(request.convert.key)
        with database.read() as session:
            [worker] = list_workers(session)
        assert (worker.running, worker.finishing) == (keys[-1], keys[:-1])


@pytest.mark.parametrize("value", ["infinity", "-infinity", "20000-01-01T00:00Z", "0044-03-15T00:00Z BC"])
def test_a_time_that_python_does_not_have_is_read_as_the_nearest(database: Database, value: str) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no accounts: whoever writes there may do all")
    add_worker(database, "honest")
    with database.write() as session:
        session.connection().exec_driver_sql(f"UPDATE workers SET started_at = '{value}'")
    with database.read() as session:
        assert [worker.started_at.year for worker in list_workers(session)] in ([1], [9999])


def test_a_row_that_can_be_read_stays(database: Database) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql(INSERT.format(**GOOD))
    with database.read() as session:
        assert [worker.id for worker in live_workers(session)] == ["evil"]


def test_the_workers_that_left_last_are_listed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "MOST_GONE", 2)
    for name in ("gone-1", "gone-2", "gone-3", "here"):
        add_worker(database, name)
    with database.write() as session:
        for name in ("gone-1", "gone-2", "gone-3"):
            deregister(session, name)
    with database.read() as session:
        assert [worker.name for worker in list_workers(session, include_gone=True)] == ["gone-2", "gone-3", "here"]
        # A drained worker may leave before the answer is read.
        assert [worker.id for worker in list_workers(session, include_gone=True, ids=["gone-1"])] == ["gone-1"]
