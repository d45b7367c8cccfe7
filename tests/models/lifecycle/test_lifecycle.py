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
from tests.models.requests import ENGINE, add_worker, claimed, manifest, request, submitted

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
    held = claimed(database, key)
    with database.write() as session:
        return publish_checkpoint(session, held, manifest("weights"), facts={}, steps={})


def build_done(database: Database, key: str) -> None:
    held = claimed(database, key)
    with database.write() as session:
        publish_engine(session, held, manifest(), engine=ENGINE, steps={"build": 1.0})


def test_the_whole_road(database: Database) -> None:
    add_worker(database)
    wanted = request()
    first = submitted(database, wanted)
    assert first.disposition is Disposition.CREATED
    assert first.announcements == [(wanted.convert.key, "convert.q")]
    assert submitted(database, wanted).disposition is Disposition.JOINED

    assert convert_done(database, wanted.convert.key) == [(wanted.build.key, "build.q")]
    build_done(database, wanted.build.key)

    assert build_state(database, first.id) is BuildState.SUCCEEDED
    third = submitted(database, wanted)
    assert third.disposition is Disposition.CACHED
    with database.read() as session:
        assert get_engine(session, wanted.build.key).contents[0].path == "config.json"
        assert [attempt.outcome for attempt in get_build(session, third.id).attempts] == ["succeeded", "succeeded"]


def test_other_limits_share_the_checkpoint(database: Database) -> None:
    add_worker(database)
    convert_done(database, _submit_key(database, "small"))
    other = submitted(database, request(limits="large"))
    assert other.announcements == [(request(limits="large").build.key, "build.q")]
    assert count(database, CheckpointRow) == 1


def _submit_key(database: Database, limits: str) -> str:
    wanted = request(limits=limits)
    submitted(database, wanted)
    return wanted.convert.key


def test_many_at_once_make_one_action(database: Database) -> None:
    """I1: one created, the rest joined, whatever the interleaving."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: submitted(database, request()), range(60)))
    dispositions = [answer.disposition for answer in answers]
    assert dispositions.count(Disposition.CREATED) == 1
    assert dispositions.count(Disposition.JOINED) == 59
    assert count(database, ActionRow) == 2
    assert sum(len(answer.announcements) for answer in answers) == 1


def test_an_engine_is_answered_without_its_checkpoint(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    convert_done(database, wanted.convert.key)
    build_done(database, wanted.build.key)
    with database.write() as session:
        withdraw_checkpoint(session, wanted.convert.key, "rotten")
    again = submitted(database, wanted)
    assert (again.disposition, again.announcements) == (Disposition.CACHED, [])
    assert action_state(database, wanted.convert.key) == "succeeded"


def test_a_joiner_that_races_the_end_is_never_left_open(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    convert_done(database, wanted.convert.key)
    stop = threading.Event()
    joined: list[str] = []

    def keep_joining() -> None:
        while not stop.is_set():
            joined.append(submitted(database, wanted).id)

    threads = [threading.Thread(target=keep_joining) for _ in range(4)]
    for thread in threads:
        thread.start()
    build_done(database, wanted.build.key)
    stop.set()
    for thread in threads:
        thread.join()
    with database.read() as session:
        left = session.execute(select(func.count()).where(BuildRow.state == "open")).scalar_one()
    assert joined
    assert left == 0


def test_only_one_claims(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)

    def take(_: int) -> bool:
        with database.write() as session:
            return claim_action(session, wanted.convert.key, "w1", lease_seconds=30) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(24))) == 1


def test_a_lost_lease_can_neither_renew_nor_publish(database: Database) -> None:
    """I3: the attempt number is checked in the publishing transaction."""
    add_worker(database)
    add_worker(database, "w2")
    wanted = request()
    submitted(database, wanted)
    late = claimed(database, wanted.convert.key, lease=-1)
    with database.write() as session:
        assert expire(session, max_tries=3) == [(wanted.convert.key, "convert.q")]
    current = claimed(database, wanted.convert.key, "w2")
    assert current.attempt == late.attempt + 1

    for attempt_to in (
        lambda session: renew(session, late, lease_seconds=30),
        lambda session: publish_checkpoint(session, late, manifest("stale"), facts={}, steps={}),
        lambda session: fail_attempt(session, late, LOST, max_tries=3, steps={}),
        lambda session: hand_back(session, late),
    ):
        with pytest.raises(Fenced), database.write() as session:
            attempt_to(session)
    assert count(database, CheckpointRow) == 0
    with database.write() as session:
        publish_checkpoint(session, current, manifest("weights"), facts={}, steps={})
    with database.read() as session:
        outcomes = session.execute(select(AttemptRow.outcome).order_by(AttemptRow.number)).scalars().all()
    assert outcomes == ["lost", "succeeded"]


def test_a_live_lease_does_not_expire(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    held = claimed(database, wanted.convert.key, lease=30)
    with database.write() as session:
        renew(session, held, lease_seconds=30, progress=0.5, message="half way")
        assert expire(session, max_tries=3) == []
    with database.read() as session:
        assert session.get_one(ActionRow, held.key).message == "half way"


def test_tries_are_capped_with_the_history_kept(database: Database) -> None:
    add_worker(database)
    wanted = request()
    accepted = submitted(database, wanted)
    for _ in range(3):
        claimed(database, wanted.convert.key, lease=-1)
        with database.write() as session:
            expire(session, max_tries=3)
    with database.read() as session:
        build = get_build(session, accepted.id)
    assert build.state is BuildState.FAILED
    assert build.error is not None
    assert build.error.cause == "worker_lost"
    assert [attempt.outcome for attempt in build.attempts] == ["lost"] * 3
    assert action_state(database, wanted.build.key) == "failed"


def test_a_failed_action_is_opened_again_with_fresh_tries(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    held = claimed(database, wanted.convert.key)
    with database.write() as session:
        fail_attempt(session, held, CALLERS, max_tries=3, steps={})
    again = submitted(database, wanted)
    assert again.disposition is Disposition.CREATED
    assert again.announcements == [(wanted.convert.key, "convert.q")]
    assert claimed(database, wanted.convert.key).attempt == 2


def test_a_retry_waits_for_its_time(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    held = claimed(database, wanted.convert.key)
    with database.write() as session:
        fail_attempt(session, held, LOST, max_tries=3, steps={})
    with database.write() as session:
        assert claim_action(session, held.key, "w1", lease_seconds=30) is None
        session.execute(update(ActionRow).where(ActionRow.key == held.key).values(not_before=now(-1)))
    assert claimed(database, held.key).attempt == 2


def test_handing_back_costs_no_try(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    for _ in range(5):
        held = claimed(database, wanted.convert.key)
        assert held.tries == 1
        with database.write() as session:
            hand_back(session, held)


def test_cancelling_one_build_leaves_the_others_their_work(database: Database) -> None:
    """I6: mine only."""
    add_worker(database)
    wanted = request()
    mine, theirs = submitted(database, wanted), submitted(database, wanted)
    with database.write() as session:
        assert cancel(session, mine.id)
    assert build_state(database, mine.id) is BuildState.CANCELLED
    assert action_state(database, wanted.convert.key) == "queued"
    convert_done(database, wanted.convert.key)
    build_done(database, wanted.build.key)
    assert build_state(database, theirs.id) is BuildState.SUCCEEDED
    assert build_state(database, mine.id) is BuildState.CANCELLED


def test_cancelling_the_last_one_cancels_the_work_and_fences_its_worker(database: Database) -> None:
    add_worker(database)
    wanted, sibling = request(), request(limits="large")
    mine, other = submitted(database, wanted), submitted(database, sibling)
    held = claimed(database, wanted.convert.key)
    with database.write() as session:
        cancel(session, mine.id)
    assert action_state(database, wanted.build.key) == "cancelled"
    assert action_state(database, wanted.convert.key) == "running"  # the sibling waits for it
    with database.write() as session:
        cancel(session, other.id)
    assert action_state(database, wanted.convert.key) == "cancelled"
    with pytest.raises(Fenced), database.write() as session:
        renew(session, held, lease_seconds=30)
    with database.write() as session:
        assert not cancel(session, other.id)


def test_a_failed_convert_fails_every_build_that_waits_for_it(database: Database) -> None:
    add_worker(database)
    ids = [submitted(database, request(limits=limits)).id for limits in ("a", "b")]
    with database.write() as session:
        fail_action(session, request().convert.key, CALLERS)
    assert [build_state(database, build_id) for build_id in ids] == [BuildState.FAILED] * 2


def test_the_schema_refuses_what_the_code_must_never_do(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    nonsense = (
        {"state": "running"},  # without a lease
        {"state": "failed"},  # without a reason
        {"state": "resting"},
        {"progress": 1.5},
        {"tries": 7},  # more tries than attempts
    )
    for values in nonsense:
        with pytest.raises(IntegrityError), database.write() as session:
            session.execute(update(ActionRow).where(ActionRow.key == wanted.build.key).values(**values))
    held = claimed(database, wanted.convert.key)
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(AttemptRow(action_key=held.key, number=9, worker_id="w1", outcome="running"))


def test_the_sweep_announces_what_was_lost_once(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    with database.write() as session:
        assert sweeping.count_due_by_queue(session) == {"convert.q": 1}
        assert sweeping.mark_announced(session, "convert.q", 5) == []  # announced just now
        session.execute(update(ActionRow).values(announced_at=now(-60)))
    with database.write() as session:
        assert sweeping.mark_announced(session, "convert.q", 5) == [(wanted.convert.key, "convert.q")]
        assert sweeping.mark_announced(session, "convert.q", 5) == []


def test_why_a_build_waits(database: Database) -> None:
    first, second = submitted(database, request()), submitted(database, request(model="other"))
    with database.read() as session:
        assert "no live worker serves convert.q" in str(get_build(session, first.id).waiting_for)
    add_worker(database)
    with database.read() as session:
        assert get_build(session, first.id).waiting_for == "next in line for 1 worker"
        assert get_build(session, second.id).waiting_for == "1 ahead of it for 1 worker"
        assert get_build(session, second.id).queue_position == 1


def test_published_twice_is_one_engine(database: Database) -> None:
    add_worker(database)
    wanted = request()
    submitted(database, wanted)
    convert_done(database, wanted.convert.key)
    build_done(database, wanted.build.key)
    assert count(database, EngineRow) == 1
    with database.write() as session:
        assert claim_action(session, wanted.build.key, "w1", lease_seconds=30) is None
