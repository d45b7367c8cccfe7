"""What was taken out is not served, not cached and not built upon; making it anew brings it back."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from enginefarm.contract import digest
from enginefarm.contract.errors import Gone, IntegrityError, NotFound
from enginefarm.wire.bodies import BuildState, Disposition, Failure, Fault
from enginefarm.wire.recall import Recall
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, BlobRow
from models.catalogue.states import Fenced
from models.fleet.roster import list_workers
from models.incidents.recall import recall
from models.incidents.repair import withdraw_damaged, withdraw_damaged_checkpoint
from models.lifecycle.leases import renew
from models.lifecycle.publication import publish_engine
from models.lifecycle.submission import submit_again
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.queries.builds import get_build
from models.queries.engines import find_engine, get_engine, list_engines
from tests.models.making import built, converted, made
from tests.models.requests import ENGINE, add_worker, claimed, manifest, request, submitted


def state(database: Database, key: str) -> str:
    with database.read() as session:
        return session.get_one(ActionRow, key).state


def recalled(database: Database, **wanted: object) -> tuple[list[str], list[str]]:
    with database.write() as session:
        taken, _announcements = recall(session, Recall.model_validate(wanted))
    return taken.engines, taken.checkpoints


def test_an_engine_taken_out_is_gone_for_every_reader_and_comes_back_new(database: Database) -> None:
    add_worker(database)
    wanted = request()
    build_id = made(database, wanted)
    with database.write() as session:
        assert withdraw_engine(session, wanted.build.key, "a bad day")
        assert not withdraw_engine(session, wanted.build.key, "again")
    with database.read() as session:
        assert find_engine(session, wanted.build.key) is None
        assert list_engines(session, limit=10, cursor=None).items == []
        with pytest.raises(Gone, match="a bad day"):
            get_engine(session, wanted.build.key)
        build = get_build(session, build_id)
    assert (build.state, build.engine) == (BuildState.SUCCEEDED, None)
    assert build.error is not None
    assert build.error.cause == "engine_taken_out"
    again = submitted(database, wanted)
    assert again.disposition is Disposition.CREATED
    assert again.announcements == [(wanted.build.key, wanted.build.queue)]  # its checkpoint is still good
    built(database, wanted)
    with database.read() as session:
        assert get_engine(session, wanted.build.key).key == wanted.build.key
        assert get_build(session, build_id).error is None
    assert submitted(database, wanted).disposition is Disposition.CACHED


def test_builds_wait_for_a_checkpoint_that_was_taken_out(database: Database) -> None:
    """Those that run are fenced: what they would publish comes from it."""
    add_worker(database)
    add_worker(database, "w2")
    running, queued = request(limits="a"), request(limits="b")
    for wanted in (running, queued):
        submitted(database, wanted)
    converted(database, running)
    held = claimed(database, running.build.key, "w2")
    with database.write() as session:
        announcements = withdraw_checkpoint(session, running.convert.key, "bad weights")
    assert announcements == [(running.convert.key, "convert.q")]
    assert state(database, running.build.key) == state(database, queued.build.key) == "waiting"
    with database.write() as session, pytest.raises(Fenced):
        renew(session, held, lease_seconds=30)
    with pytest.raises(Fenced), database.write() as session:
        publish_engine(session, held, manifest(), engine=ENGINE, steps={})
    converted(database, running)
    assert state(database, running.build.key) == state(database, queued.build.key) == "queued"
    built(database, running)


def test_a_submit_converts_anew_what_was_taken_out(database: Database) -> None:
    add_worker(database)
    wanted = request()
    made(database, wanted)
    with database.write() as session:
        assert withdraw_checkpoint(session, wanted.convert.key, "bad") == []  # nobody waits for it
    other = request(limits="other")
    assert submitted(database, other).announcements == [(wanted.convert.key, "convert.q")]
    assert state(database, other.build.key) == "waiting"


def test_recall_by_worker_takes_what_it_made_and_what_was_made_of_that(database: Database) -> None:
    for name in ("sick", "well"):
        add_worker(database, name)
    theirs = request("theirs")
    mixed, clean = request("mixed"), request("clean")
    made(database, theirs, converter="well", builder="sick")
    made(database, mixed, converter="sick", builder="well")
    made(database, clean, converter="well", builder="well")
    busy = request("busy")
    submitted(database, busy)
    held = claimed(database, busy.convert.key, "sick")
    engines, checkpoints = recalled(database, worker="sick", reason="bad memory")
    assert engines == sorted([theirs.build.key, mixed.build.key])
    assert checkpoints == [mixed.convert.key]
    assert state(database, busy.convert.key) == "queued"
    with database.write() as session, pytest.raises(Fenced):
        renew(session, held, lease_seconds=30)
    with database.read() as session:
        assert {w.name: w.quarantine for w in list_workers(session)} == {"sick": "bad memory", "well": None}
        assert [engine.key for engine in list_engines(session, limit=9, cursor=None).items] == [clean.build.key]
    assert recalled(database, worker="sick") == ([], [])


def test_recall_between_times(database: Database) -> None:
    add_worker(database)
    wanted = request()
    made(database, wanted)
    with database.read() as session:
        before, after = (session.execute(select(now(seconds))).scalar_one() for seconds in (-60, 60))
    assert recalled(database, since=after) == recalled(database, until=before) == ([], [])
    assert recalled(database, since=before, until=after) == ([wanted.build.key], [wanted.convert.key])


def test_recall_by_toolchain_and_never_of_everything(database: Database) -> None:
    assert recalled(database, toolchain="aoti", version="2.13.0") == ([], [])
    for too_wide in ({}, {"version": "1"}, {"reason": "all"}):
        with pytest.raises(ValueError, match="give"):
            Recall.model_validate(too_wide)
    with database.write() as session, pytest.raises(NotFound):
        recall(session, Recall(worker="nobody"))


def test_what_was_taken_out_is_asked_for_again(database: Database) -> None:
    add_worker(database)
    wanted = request()
    made(database, wanted)
    recalled(database, worker="w1")
    with database.write() as session:
        accepted = submit_again(session, wanted.build.key, requested_by="admin")
    assert accepted.disposition is Disposition.CREATED
    assert accepted.announcements == [(wanted.convert.key, "convert.q")]


def test_a_damaged_blob_takes_out_all_that_has_it_until_it_is_written_again(database: Database) -> None:
    add_worker(database)
    wanted = request()
    made(database, wanted)
    blob = digest.of_bytes(b"engine")
    with database.write() as session:
        taken, _ = withdraw_damaged(session, [blob])
    assert (taken.engines, taken.checkpoints) == ([wanted.build.key], [])
    submitted(database, wanted)
    held = claimed(database, wanted.build.key, "w1")
    with pytest.raises(IntegrityError, match="damaged"), database.write() as session:
        publish_engine(session, held, manifest(), engine=ENGINE, steps={})
    assert state(database, wanted.build.key) == "running"  # nothing of it was done
    with database.write() as session:
        publish_engine(session, held, manifest(), engine=ENGINE, steps={}, rewritten=[blob])
    with database.read() as session:
        assert session.get_one(BlobRow, blob).damaged_at is None
        assert get_engine(session, wanted.build.key).contents[0].digest == blob


def test_a_build_that_finds_its_checkpoint_damaged_waits_for_a_new_one(database: Database) -> None:
    add_worker(database)
    wanted = request()
    accepted = submitted(database, wanted)
    converted(database, wanted)
    held = claimed(database, wanted.build.key)
    failure = Failure(cause="checkpoint_damaged", fault=Fault.FARM, detail="wrong bytes")
    with database.write() as session:
        announcements = withdraw_damaged_checkpoint(
            session, held, digest.of_bytes(b"weights"), failure, max_tries=3, steps={}
        )  # fmt: skip
    assert announcements == [(wanted.convert.key, "convert.q")]
    assert state(database, wanted.build.key) == "waiting"
    with database.read() as session:
        attempts = get_build(session, accepted.id).attempts
    assert [(attempt.stage, attempt.outcome) for attempt in attempts] == [("convert", "succeeded"), ("build", "failed")]
    with database.write() as session, pytest.raises(Fenced):
        withdraw_damaged_checkpoint(session, held, digest.of_bytes(b"weights"), failure, max_tries=3, steps={})
