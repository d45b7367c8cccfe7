"""Submit, claim, publish, fail, cancel, expire: on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from enginefarm.wire.bodies import BuildState, Disposition, Failure, Fault
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, CheckpointRow, EngineRow
from models.catalogue.states import Fenced
from models.lifecycle import recovery as sweeping
from models.lifecycle.leases import claim_action, expire, fail_attempt, hand_back, renew
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.submission import cancel
from models.lifecycle.transitions import fail_action
from models.lifecycle.withdrawal import withdraw_checkpoint
from models.queries.builds import get_build
from models.queries.engines import get_engine
from models.queue.names import Announcement
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request

LOST = Failure(cause="killed", fault=Fault.WORKER, detail="gone", retryable=True)
CALLERS = Failure(cause="bad", fault=Fault.CALLER, detail="your model", retryable=False)


def build_state(database: Database, build_id: str) -> BuildState:
    with database.read() as session:
        return get_build(session, build_id).state


def action_state(database: Database, key: str) -> str:
    with database.read() as session:
        return session.get_one(ActionRow, key).state


def count(database: Database, row: type) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(row)).scalar_one()


def convert_done(database: Database, key: str) -> list[Announcement]:
    claim = claim_now(database, key)
    with database.write() as session:
        return publish_checkpoint(session, claim, one_file_manifest("weights"), facts={}, steps={})


def build_done(database: Database, key: str) -> None:
    claim = claim_now(database, key)
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest(), engine=ENGINE, steps={"build": 1.0})


def test_a_build_passes_from_submit_to_engine(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    first = submit_request(database, build_request)
    assert first.disposition is Disposition.CREATED
    assert first.announcements == [(build_request.convert.key, "convert.q")]
    assert submit_request(database, build_request).disposition is Disposition.JOINED

    assert convert_done(database, build_request.convert.key) == [(build_request.build.key, "build.q")]
    build_done(database, build_request.build.key)

    assert build_state(database, first.id) is BuildState.SUCCEEDED
    third = submit_request(database, build_request)
    assert third.disposition is Disposition.CACHED
    with database.read() as session:
        assert get_engine(session, build_request.build.key).contents[0].path == "config.json"
        assert [attempt.outcome for attempt in get_build(session, third.id).attempts] == ["succeeded", "succeeded"]


def test_builds_with_other_limits_share_the_checkpoint(database: Database) -> None:
    add_worker(database)
    convert_done(database, _submit_key(database, "small"))
    other = submit_request(database, new_request(limits="large"))
    assert other.announcements == [(new_request(limits="large").build.key, "build.q")]
    assert count(database, CheckpointRow) == 1


def _submit_key(database: Database, limits: str) -> str:
    build_request = new_request(limits=limits)
    submit_request(database, build_request)
    return build_request.convert.key


def test_concurrent_submits_make_one_action(database: Database) -> None:
    """I1: one created, the rest joined, whatever the interleaving."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: submit_request(database, new_request()), range(60)))
    dispositions = [answer.disposition for answer in answers]
    assert dispositions.count(Disposition.CREATED) == 1
    assert dispositions.count(Disposition.JOINED) == 59
    assert count(database, ActionRow) == 2
    assert sum(len(answer.announcements) for answer in answers) == 1


def test_a_submit_is_cached_although_the_checkpoint_was_removed(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    convert_done(database, build_request.convert.key)
    build_done(database, build_request.build.key)
    with database.write() as session:
        withdraw_checkpoint(session, build_request.convert.key, "rotten")
    again = submit_request(database, build_request)
    assert (again.disposition, again.announcements) == (Disposition.CACHED, [])
    assert action_state(database, build_request.convert.key) == "succeeded"


def test_a_joiner_that_races_the_end_is_never_left_open(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    convert_done(database, build_request.convert.key)
    stop = threading.Event()
    joined: list[str] = []

    def keep_joining() -> None:
        while not stop.is_set():
            joined.append(submit_request(database, build_request).id)

    threads = [threading.Thread(target=keep_joining) for _ in range(4)]
    for thread in threads:
        thread.start()
    build_done(database, build_request.build.key)
    stop.set()
    for thread in threads:
        thread.join()
    with database.read() as session:
        left = session.execute(select(func.count()).where(BuildRow.state == "open")).scalar_one()
    assert joined
    assert left == 0


def test_only_one_worker_claims_an_action(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)

    def take(_: int) -> bool:
        with database.write() as session:
            return claim_action(session, build_request.convert.key, "w1", lease_seconds=30) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(24))) == 1


def test_a_lost_lease_can_neither_renew_nor_publish(database: Database) -> None:
    """I3: the attempt number is checked in the publishing transaction."""
    add_worker(database)
    add_worker(database, "w2")
    build_request = new_request()
    submit_request(database, build_request)
    late = claim_now(database, build_request.convert.key, lease=-1)
    with database.write() as session:
        assert expire(session, max_tries=3) == [(build_request.convert.key, "convert.q")]
    current = claim_now(database, build_request.convert.key, "w2")
    assert current.attempt == late.attempt + 1

    for attempt_to in (
        lambda session: renew(session, late, lease_seconds=30),
        lambda session: publish_checkpoint(session, late, one_file_manifest("stale"), facts={}, steps={}),
        lambda session: fail_attempt(session, late, LOST, max_tries=3, steps={}),
        lambda session: hand_back(session, late),
    ):
        with pytest.raises(Fenced), database.write() as session:
            attempt_to(session)
    assert count(database, CheckpointRow) == 0
    with database.write() as session:
        publish_checkpoint(session, current, one_file_manifest("weights"), facts={}, steps={})
    with database.read() as session:
        outcomes = session.execute(select(AttemptRow.outcome).order_by(AttemptRow.number)).scalars().all()
    assert outcomes == ["lost", "succeeded"]


def test_a_live_lease_does_not_expire(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key, lease=30)
    with database.write() as session:
        renew(session, claim, lease_seconds=30, progress=0.5, message="half way")
        assert expire(session, max_tries=3) == []
    with database.read() as session:
        assert session.get_one(ActionRow, claim.key).message == "half way"


def test_tries_are_capped_and_their_history_is_kept(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    for _ in range(3):
        claim_now(database, build_request.convert.key, lease=-1)
        with database.write() as session:
            expire(session, max_tries=3)
    with database.read() as session:
        build = get_build(session, accepted.id)
    assert build.state is BuildState.FAILED
    assert build.error is not None
    assert build.error.cause == "worker_lost"
    assert [attempt.outcome for attempt in build.attempts] == ["lost"] * 3
    assert action_state(database, build_request.build.key) == "failed"


def test_a_failed_action_is_opened_again_with_fresh_tries(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key)
    with database.write() as session:
        fail_attempt(session, claim, CALLERS, max_tries=3, steps={})
    again = submit_request(database, build_request)
    assert again.disposition is Disposition.CREATED
    assert again.announcements == [(build_request.convert.key, "convert.q")]
    assert claim_now(database, build_request.convert.key).attempt == 2


def test_a_retry_waits_for_its_time(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key)
    with database.write() as session:
        fail_attempt(session, claim, LOST, max_tries=3, steps={})
    with database.write() as session:
        assert claim_action(session, claim.key, "w1", lease_seconds=30) is None
        session.execute(update(ActionRow).where(ActionRow.key == claim.key).values(not_before=now(-1)))
    assert claim_now(database, claim.key).attempt == 2


def test_a_handed_back_attempt_costs_no_try(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    for _ in range(5):
        claim = claim_now(database, build_request.convert.key)
        assert claim.tries == 1
        with database.write() as session:
            hand_back(session, claim)


def test_cancelling_one_build_leaves_the_action_to_the_others(database: Database) -> None:
    """I6: mine only."""
    add_worker(database)
    build_request = new_request()
    first, second = submit_request(database, build_request), submit_request(database, build_request)
    with database.write() as session:
        assert cancel(session, first.id)
    assert build_state(database, first.id) is BuildState.CANCELLED
    assert action_state(database, build_request.convert.key) == "queued"
    convert_done(database, build_request.convert.key)
    build_done(database, build_request.build.key)
    assert build_state(database, second.id) is BuildState.SUCCEEDED
    assert build_state(database, first.id) is BuildState.CANCELLED


def test_cancelling_the_last_build_cancels_the_action_and_fences_its_worker(database: Database) -> None:
    add_worker(database)
    build_request, sibling = new_request(), new_request(limits="large")
    first, other = submit_request(database, build_request), submit_request(database, sibling)
    claim = claim_now(database, build_request.convert.key)
    with database.write() as session:
        cancel(session, first.id)
    assert action_state(database, build_request.build.key) == "cancelled"
    assert action_state(database, build_request.convert.key) == "running"  # the sibling waits for it
    with database.write() as session:
        cancel(session, other.id)
    assert action_state(database, build_request.convert.key) == "cancelled"
    with pytest.raises(Fenced), database.write() as session:
        renew(session, claim, lease_seconds=30)
    with database.write() as session:
        assert not cancel(session, other.id)


def test_a_failed_convert_fails_every_build_that_waits_for_it(database: Database) -> None:
    add_worker(database)
    ids = [submit_request(database, new_request(limits=limits)).id for limits in ("a", "b")]
    with database.write() as session:
        fail_action(session, new_request().convert.key, CALLERS)
    assert [build_state(database, build_id) for build_id in ids] == [BuildState.FAILED] * 2


def test_the_schema_refuses_what_the_code_must_never_do(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    nonsense = (
        {"state": "running"},  # without a lease
        {"state": "failed"},  # without a reason
        {"state": "resting"},
        {"progress": 1.5},
        {"tries": 7},  # more tries than attempts
    )
    for values in nonsense:
        with pytest.raises(IntegrityError), database.write() as session:
            session.execute(update(ActionRow).where(ActionRow.key == build_request.build.key).values(**values))
    claim = claim_now(database, build_request.convert.key)
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(AttemptRow(action_key=claim.key, number=9, worker_id="w1", outcome="running"))


def test_the_sweep_announces_a_lost_message_once(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    with database.write() as session:
        assert sweeping.count_due_by_queue(session) == {"convert.q": 1}
        assert sweeping.mark_announced(session, "convert.q", 5) == []  # announced just now
        session.execute(update(ActionRow).values(announced_at=now(-60)))
    with database.write() as session:
        assert sweeping.mark_announced(session, "convert.q", 5) == [(build_request.convert.key, "convert.q")]
        assert sweeping.mark_announced(session, "convert.q", 5) == []


def test_the_sweep_queues_only_waiting_builds_of_a_published_checkpoint(database: Database) -> None:
    add_worker(database)
    finished, repaired = new_request(limits="small"), new_request(limits="large")
    submit_request(database, finished)
    convert_done(database, finished.convert.key)
    build_done(database, finished.build.key)
    submit_request(database, repaired)
    with database.write() as session:
        session.execute(update(ActionRow).where(ActionRow.key == repaired.build.key).values(state="waiting"))
        sweeping.queue_released_builds(session)
    assert action_state(database, repaired.build.key) == "queued"
    assert action_state(database, finished.build.key) == "succeeded"


def test_a_queued_build_says_why_it_waits(database: Database) -> None:
    first, second = submit_request(database, new_request()), submit_request(database, new_request(model="other"))
    with database.read() as session:
        assert "no live worker serves convert.q" in str(get_build(session, first.id).waiting_for)
    add_worker(database)
    with database.read() as session:
        assert get_build(session, first.id).waiting_for == "next in line for 1 worker"
        assert get_build(session, second.id).waiting_for == "1 ahead of it for 1 worker"
        assert get_build(session, second.id).queue_position == 1


def test_two_publications_of_one_key_leave_one_engine(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    submit_request(database, build_request)
    convert_done(database, build_request.convert.key)
    build_done(database, build_request.build.key)
    assert count(database, EngineRow) == 1
    with database.write() as session:
        assert claim_action(session, build_request.build.key, "w1", lease_seconds=30) is None
