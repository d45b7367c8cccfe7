"""The retry policy by cause of failure, and the quarantine of workers that cause failures."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from sqlalchemy import update

from enginefarm.contract.errors import NotFound
from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import BuildState, Capability, Failure, Fault
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.catalogue.states import Fenced
from models.fleet.registration import mark_silent_workers_gone, register
from models.fleet.roster import list_workers, live_workers
from models.fleet.worker_control import drain, quarantine_if_sick, release
from models.lifecycle.leases import LeftInQueue, claim_action, expire, left_in_queue, was_published
from models.lifecycle.publication import publish_checkpoint
from models.lifecycle.retry_policy import backoff
from models.queries.builds import get_build
from models.queue.names import Announcement, larger_memory_queue, queues_by_memory
from tests.models.requests import CPU, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import build_engine, fail_claim, make_due
from tests.scale.plans import statements_of

BROKEN = Failure(cause="device_fault", fault=Fault.WORKER, detail="Xid 79", retryable=True)
CALLERS = Failure(cause="refused", fault=Fault.CALLER, detail="no")
MEMORY = Failure(cause="out_of_memory", fault=Fault.WORKER, detail="killed for memory")


def claims(database: Database, key: str, worker: str) -> bool:
    with database.write() as session:
        return claim_action(session, key, worker, lease_seconds=30) is not None


def with_memory(database: Database, name: str, memory_gib: float) -> None:
    host = Host(name=name, cpu="some", cores=2, memory_gib=memory_gib)
    queues = [queue for base in ("convert.q", "build.q") for queue in queues_by_memory(base, memory_gib)]
    capability = Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT, Stage.BUILD])
    with database.write() as session:
        register(session, name, name, Fingerprint(platform=CPU, host=host), [capability], queues)


def state(database: Database, name: str) -> str:
    with database.read() as session:
        return next(worker.state for worker in list_workers(session, include_gone=True) if worker.name == name)


def why(database: Database, build_id: str) -> str:
    with database.read() as session:
        return get_build(session, build_id).waiting_for or ""


def test_a_retryable_failure_is_tried_on_other_workers_first(database: Database) -> None:
    for name in ("w1", "w2"):
        add_worker(database, name)
    build_request = new_request()
    submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key, "w1"), BROKEN)
    assert not claims(database, build_request.convert.key, "w2")  # not before its time
    make_due(database, build_request.convert.key)
    assert not claims(database, build_request.convert.key, "w1")
    with database.read() as session:
        announcement = Announcement(build_request.convert.key, "convert.q")
        assert left_in_queue(session, "convert.q", "w1") == LeftInQueue(announcement, reserved=True)
        assert left_in_queue(session, "convert.q", "w2") == LeftInQueue(announcement, reserved=False)
    assert claims(database, build_request.convert.key, "w2")


def test_an_action_returns_to_the_worker_that_failed_if_no_other_takes_it(database: Database) -> None:
    for name in ("w1", "w2"):
        add_worker(database, name)
    build_request = new_request()
    submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key, "w1"), BROKEN)
    make_due(database, build_request.convert.key)
    with database.write() as session:
        session.execute(update(ActionRow).values(avoid_until=now(-1)))
    assert claims(database, build_request.convert.key, "w1")


def test_the_only_worker_tries_again(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key), BROKEN)
    make_due(database, build_request.convert.key)
    assert claims(database, build_request.convert.key, "w1")


def test_the_last_failure_names_the_earlier_causes(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    for failure in (BROKEN, BROKEN.model_copy(update={"cause": "store_unavailable"}), BROKEN):
        make_due(database, build_request.convert.key)
        fail_claim(database, claim_now(database, build_request.convert.key), failure)
    with database.read() as session:
        build = get_build(session, accepted.id)
    assert build.state is BuildState.FAILED
    assert build.error is not None
    assert build.error.detail == "Xid 79 (try 3; before: device_fault on w1, store_unavailable on w1)"
    assert len(build.attempts) == 3


def test_the_earlier_causes_stand_before_the_lines_of_the_log(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    for detail in ("Xid 79", "Xid 79", "Xid 79\na line of the log"):
        make_due(database, build_request.convert.key)
        failure = BROKEN.model_copy(update={"detail": detail})
        fail_claim(database, claim_now(database, build_request.convert.key), failure)
    with database.read() as session:
        build = get_build(session, accepted.id)
    assert build.error is not None
    assert build.error.detail == ("Xid 79 (try 3; before: device_fault on w1, device_fault on w1)\na line of the log")


def test_a_kill_for_memory_is_tried_once_on_a_larger_worker(database: Database) -> None:
    with_memory(database, "small", 24.0)
    with_memory(database, "large", 64.0)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key, "small"), MEMORY)
    with database.read() as session:
        assert session.get_one(ActionRow, build_request.convert.key).queue == "convert.q.over32"
    fail_claim(database, claim_now(database, build_request.convert.key, "large"), MEMORY)
    with database.read() as session:
        build = get_build(session, accepted.id)
    assert build.state is BuildState.FAILED
    assert [attempt.worker for attempt in build.attempts] == ["small", "large"]


def test_a_kill_for_memory_fails_without_a_larger_worker(database: Database) -> None:
    with_memory(database, "small", 24.0)
    with_memory(database, "as-small", 30.0)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key, "small"), MEMORY)
    with database.read() as session:
        assert get_build(session, accepted.id).state is BuildState.FAILED


def test_memory_classes() -> None:
    assert larger_memory_queue("q", 24.0) == "q.over32"
    assert larger_memory_queue("q", 32.0) == "q.over32"
    assert larger_memory_queue("q.over32", 64.0) is None
    assert queues_by_memory("q", 32.0) == ["q", "q.over4", "q.over8", "q.over16"]
    assert "q.over32" in queues_by_memory("q", 33.0)


def fail_one(database: Database, name: str, failure: Failure = BROKEN) -> str | None:
    build_request = new_request(name)
    submit_request(database, build_request)
    fail_claim(database, claim_now(database, build_request.convert.key, "w1"), failure)
    with database.write() as session:
        return quarantine_if_sick(session, "w1", after=2)


def test_a_worker_on_which_different_actions_fail_is_quarantined_until_released(database: Database) -> None:
    add_worker(database)
    assert fail_one(database, "a") is None
    assert fail_one(database, "b") == "2 different actions in a row failed on it (device_fault)"
    assert state(database, "w1") == "quarantined"
    waiting = new_request("c")
    accepted = submit_request(database, waiting)
    assert not claims(database, waiting.convert.key, "w1")
    assert "quarantined: w1 (2 different actions in a row" in why(database, accepted.id)
    add_worker(database)  # it says that it is there, as it does every few seconds
    assert state(database, "w1") == "quarantined"
    with database.write() as session:
        assert release(session, "w1") == ["w1"]
        assert quarantine_if_sick(session, "w1", after=2) is None  # what was before does not count
    assert state(database, "w1") == "live"
    assert claims(database, waiting.convert.key, "w1")


@pytest.mark.parametrize("failure", [CALLERS, MEMORY, BROKEN.model_copy(update={"fault": Fault.FARM})])
def test_failures_that_are_not_the_workers_fault_do_not_quarantine_it(database: Database, failure: Failure) -> None:
    add_worker(database)
    assert [fail_one(database, name, failure) for name in "abc"] == [None] * 3


def test_one_action_that_fails_again_and_again_does_not_quarantine_a_worker(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    for _ in range(2):
        make_due(database, build_request.convert.key)
        fail_claim(database, claim_now(database, build_request.convert.key), BROKEN)
        with database.write() as session:
            assert quarantine_if_sick(session, "w1", after=2) is None


def test_a_success_resets_the_count_of_failures(database: Database) -> None:
    add_worker(database)
    assert fail_one(database, "a") is None
    build_engine(database, new_request("good"))
    assert fail_one(database, "b") is None


def test_a_quarantine_outlives_a_restart_of_the_worker(database: Database) -> None:
    add_worker(database)
    fail_one(database, "a")
    fail_one(database, "b")
    with database.write() as session:
        mark_silent_workers_gone(session, after_seconds=-1)
        register(
            session,
            "w1-again",
            "w1",
            Fingerprint(platform=CPU, host=Host(name="w1", cpu="", cores=1, memory_gib=1)),
            [],
            [],
        )
    with database.read() as session:
        assert [(worker.id, worker.state) for worker in list_workers(session)] == [("w1-again", "quarantined")]
        assert live_workers(session) == []
    with database.write() as session:
        assert sorted(release(session, "w1")) == ["w1", "w1-again"]
    with database.read() as session:
        assert [worker.state for worker in list_workers(session)] == ["live"]


def test_a_drained_worker_keeps_what_it_runs_and_takes_nothing_new(database: Database) -> None:
    add_worker(database)
    first, second = new_request("a"), new_request("b")
    for build_request in (first, second):
        submit_request(database, build_request)
    claim = claim_now(database, first.convert.key)
    with database.write() as session:
        assert drain(session, "w1") == ["w1"]
    assert state(database, "w1") == "draining"
    assert not claims(database, second.convert.key, "w1")
    fail_claim(database, claim, CALLERS)
    add_worker(database)
    assert state(database, "w1") == "draining"
    with database.write() as session, pytest.raises(NotFound):
        drain(session, "nobody")


def test_a_publisher_recognizes_its_own_unanswered_commit(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key)
    with database.read() as session:
        assert not was_published(session, claim)
    for expected in (nullcontext(), pytest.raises(Fenced)):
        with expected, database.write() as session:
            publish_checkpoint(session, claim, one_file_manifest("weights"), facts={}, steps={})
    with database.read() as session:
        assert was_published(session, claim)


def test_the_pause_grows_threefold_up_to_ten_minutes() -> None:
    assert [backoff(tries) for tries in (1, 2, 3, 6, 5000)] == [5, 15, 45, 600, 600]


def test_the_sweep_reads_the_fleet_once_for_many_expired_leases(database: Database) -> None:
    for number in range(3):
        add_worker(database, f"w{number}")
    for number in range(3):
        build_request = new_request(f"m{number}")
        submit_request(database, build_request)
        claim_now(database, build_request.convert.key, f"w{number}", lease=-1)
    with database.write() as session, statements_of(session) as statements:
        assert len(expire(session, max_tries=3)) == 3
    assert len([statement for statement in statements if "FROM workers" in statement.text]) == 1
