"""Actions, attempts and workers that nothing needs go; an engine's provenance and builds in flight stay whole."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import delete, select, update

from enginefarm.wire.bodies import Disposition, Failure, Fault
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.ranges import KeyRange
from models.catalogue.rows import (
    ActionRow,
    AttemptRow,
    BuildRow,
    CheckpointRow,
    EngineRow,
    GpuLockRow,
    LogChunkRow,
    Row,
    WorkerRow,
)
from models.fleet.registration import deregister
from models.fleet.worker_control import quarantine
from models.lifecycle.gpu_locks import lock_gpus
from models.lifecycle.logs import append
from models.lifecycle.submission import Request, submit
from models.queries.estimates import usual_seconds
from models.queries.provenance import statement_of
from models.retention import past_actions
from tests.models.requests import add_worker, claim_now, new_request, submit_request
from tests.models.stage_runs import build_engine, fail_claim, make_due, run_convert

_ALL = KeyRange(None, "g")
_DAYS = 10.0
_REFUSED = Failure(cause="program_failed", fault=Fault.TOOLCHAIN, detail="d", advice="a", retryable=False)
_LOST = Failure(cause="program_failed", fault=Fault.WORKER, detail="d", advice="a", retryable=True)


def age(database: Database) -> None:
    """Let everything that happened have happened twenty days ago."""
    past = now(-2 * _DAYS * 86400)
    with database.write() as session:
        session.execute(update(ActionRow).values(queued_at=past))
        session.execute(update(AttemptRow).values(started_at=past))
        session.execute(update(AttemptRow).where(AttemptRow.ended_at.is_not(None)).values(ended_at=past))
        session.execute(update(WorkerRow).values(last_seen_at=past))


def remove_all(database: Database) -> past_actions.Removed:
    """What rounds remove until nothing goes any more."""
    actions = attempts = 0
    while True:
        with database.read() as session:
            keys = past_actions.removable_keys(session, _ALL, days=_DAYS)
        if not keys:
            return past_actions.Removed(actions, attempts)
        with database.write() as session:
            removed = past_actions.remove(session, keys, days=_DAYS)
        actions, attempts = actions + removed.actions, attempts + removed.attempts


def forget_builds(database: Database) -> None:
    with database.write() as session:
        session.execute(delete(BuildRow))


@pytest.fixture
def newest_success(database: Database, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Builds an engine that alone is read for estimates: they keep no other action. Returns the keys of its actions."""
    monkeypatch.setattr(past_actions, "ESTIMATED_FROM", 1)

    def build() -> list[str]:
        request = new_request("newest")
        build_engine(database, request)
        return [request.convert.key, request.build.key]

    return build


def rows(database: Database, row: type[Row]) -> int:
    with database.read() as session:
        return len(session.execute(select(row)).all())


def failed(database: Database, request: Request) -> None:
    """A build whose conversion fails at its second attempt; both leave pieces of a log behind."""
    submit_request(database, request)
    for failure in (_LOST, _REFUSED):
        make_due(database, request.convert.key)
        claim = claim_now(database, request.convert.key)
        with database.write() as session:
            append(session, claim.key, claim.attempt, 0, b"a line\n")
        fail_claim(database, claim, failure)


def test_what_no_build_needs_goes_with_its_attempts_and_logs(database: Database) -> None:
    add_worker(database)
    request = new_request()
    failed(database, request)
    assert remove_all(database) == past_actions.Removed()
    age(database)
    # Its build is in the catalogue: it keeps the actions, and old attempts go.
    assert remove_all(database) == past_actions.Removed(attempts=2)
    forget_builds(database)
    assert remove_all(database) == past_actions.Removed(actions=2)
    assert [rows(database, row) for row in (ActionRow, AttemptRow, LogChunkRow)] == [0, 0, 0]
    assert submit_request(database, request).disposition is Disposition.CREATED
    assert claim_now(database, request.convert.key).attempt == 1


def test_attempts_that_go_keep_the_number_of_the_next(database: Database) -> None:
    add_worker(database)
    request = new_request()
    failed(database, request)
    age(database)
    remove_all(database)
    submit_request(database, request)
    assert claim_now(database, request.convert.key).attempt == 3


def test_an_engine_keeps_its_provenance(database: Database, newest_success: Callable[[], list[str]]) -> None:
    add_worker(database)
    request = new_request()
    submit_request(database, request)
    fail_claim(database, claim_now(database, request.convert.key), _LOST)
    make_due(database, request.convert.key)
    build_engine(database, request)
    with database.write() as session:
        session.execute(delete(CheckpointRow))  # as garbage collection does
        session.execute(update(EngineRow).values(provenance={"checkpoint": "sha256:" + "0" * 64}))
    age(database)
    newest_keys = newest_success()
    forget_builds(database)
    with database.read() as session:
        before = statement_of(session, request.build.key, builder="farm")
    assert remove_all(database) == past_actions.Removed(attempts=1)
    with database.read() as session:
        assert statement_of(session, request.build.key, builder="farm") == before
    assert rows(database, ActionRow) == 2 + len(newest_keys)


def test_builds_in_flight_keep_everything(database: Database) -> None:
    add_worker(database)
    waiting, running = new_request("waiting"), new_request("running")
    for request in (waiting, running):
        submit_request(database, request)
        fail_claim(database, claim_now(database, request.convert.key), _LOST)
        make_due(database, request.convert.key)
    claim_now(database, running.convert.key)
    age(database)
    assert remove_all(database) == past_actions.Removed()


def test_a_checkpoint_and_a_lock_of_a_gpu_keep_their_action(
    database: Database, newest_success: Callable[[], list[str]]
) -> None:
    add_worker(database)
    converted, locking = new_request("converted"), new_request("locking")
    for request in (converted, locking):
        submit_request(database, request)
    run_convert(database, converted)
    fail_claim(database, claim_now(database, converted.build.key), _REFUSED)
    claim = claim_now(database, locking.convert.key)
    with database.write() as session:
        lock_gpus(session, claim, ["GPU-1"], seconds=60)
    fail_claim(database, claim, _REFUSED)
    age(database)
    newest_keys = newest_success()
    forget_builds(database)
    remove_all(database)
    with database.read() as session:
        kept = session.execute(select(ActionRow.key)).scalars().all()
    assert sorted(kept) == sorted([converted.convert.key, locking.convert.key, *newest_keys])
    with database.write() as session:
        session.execute(delete(GpuLockRow))
        session.execute(delete(CheckpointRow))
    remove_all(database)
    assert rows(database, ActionRow) == len(newest_keys)


def test_the_newest_successes_of_a_queue_stay_for_estimates(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past_actions, "ESTIMATED_FROM", 2)
    add_worker(database)
    requests = [new_request(model=f"model {number}") for number in range(4)]
    for request in requests:
        build_engine(database, request)
    age(database)
    forget_builds(database)
    with database.write() as session:
        session.execute(delete(EngineRow))
        session.execute(delete(CheckpointRow))
        for number, request in enumerate(requests):
            keys = (request.convert.key, request.build.key)
            session.execute(update(ActionRow).where(ActionRow.key.in_(keys)).values(queued_at=now(-2e6 + number)))
    with database.read() as session:
        before = usual_seconds(session, "build.q")
    assert remove_all(database).actions == 4
    with database.read() as session:
        newest = {key for request in requests[2:] for key in (request.convert.key, request.build.key)}
        assert set(session.execute(select(ActionRow.key)).scalars()) == newest
        assert usual_seconds(session, "build.q") == before


def test_a_submit_that_meets_the_removal_begins_anew(database: Database) -> None:
    add_worker(database)
    request = new_request()
    failed(database, request)
    age(database)
    forget_builds(database)
    dispositions: list[Disposition] = []

    def submit_meanwhile() -> None:
        with database.write() as session:
            dispositions.append(submit(session, request).disposition)

    with database.write() as session:
        keys = past_actions.removable_keys(session, _ALL, days=_DAYS)
        assert past_actions.remove(session, keys, days=_DAYS).actions == 1
        submitting = threading.Thread(target=submit_meanwhile)
        submitting.start()
        submitting.join(0.2)  # it waits for this transaction
    submitting.join(30)
    assert dispositions == [Disposition.CREATED]
    assert rows(database, ActionRow) == 2


def test_workers_that_left_go_once_no_attempt_names_them(database: Database) -> None:
    for name in ("busy", "idle", "here", "sick"):
        add_worker(database, name)
    submit_request(database, new_request())
    fail_claim(database, claim_now(database, new_request().convert.key, "busy"), _REFUSED)
    with database.write() as session:
        quarantine(session, "sick", "it failed")
        for name in ("busy", "idle", "sick"):
            deregister(session, name)
    age(database)

    def removed() -> int:
        with database.write() as session:
            return past_actions.remove_past_workers(session, days=_DAYS, size=10)

    assert removed() == 1
    remove_all(database)
    assert removed() == 1
    with database.read() as session:
        assert sorted(session.execute(select(WorkerRow.name)).scalars()) == ["here", "sick"]
