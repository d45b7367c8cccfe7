"""A withdrawn engine or checkpoint is not served, cached or built upon until it is made anew."""

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
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import build_engine, run_build, run_convert


def state(database: Database, key: str) -> str:
    with database.read() as session:
        return session.get_one(ActionRow, key).state


def recalled(database: Database, **build_request: object) -> tuple[list[str], list[str]]:
    with database.write() as session:
        taken, _announcements = recall(session, Recall.model_validate(build_request))
    return taken.engines, taken.checkpoints


def test_a_withdrawn_engine_is_gone_for_every_reader_and_comes_back_new(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_id = build_engine(database, build_request)
    with database.write() as session:
        assert withdraw_engine(session, build_request.build.key, "a bad day")
        assert not withdraw_engine(session, build_request.build.key, "again")
    with database.read() as session:
        assert find_engine(session, build_request.build.key) is None
        assert list_engines(session, limit=10, cursor=None).items == []
        with pytest.raises(Gone, match="a bad day"):
            get_engine(session, build_request.build.key)
        build = get_build(session, build_id)
    assert (build.state, build.engine) == (BuildState.SUCCEEDED, None)
    assert build.error is not None
    assert build.error.cause == "engine_taken_out"
    again = submit_request(database, build_request)
    assert again.disposition is Disposition.CREATED
    assert again.announcements == [(build_request.build.key, build_request.build.queue)]  # its checkpoint is still good
    run_build(database, build_request)
    with database.read() as session:
        assert get_engine(session, build_request.build.key).key == build_request.build.key
        assert get_build(session, build_id).error is None
    assert submit_request(database, build_request).disposition is Disposition.CACHED


def test_builds_wait_when_their_checkpoint_is_withdrawn(database: Database) -> None:
    """Those that run are fenced: what they would publish comes from it."""
    add_worker(database)
    add_worker(database, "w2")
    running, queued = new_request(limits="a"), new_request(limits="b")
    for build_request in (running, queued):
        submit_request(database, build_request)
    run_convert(database, running)
    claim = claim_now(database, running.build.key, "w2")
    with database.write() as session:
        announcements = withdraw_checkpoint(session, running.convert.key, "bad weights")
    assert announcements == [(running.convert.key, "convert.q")]
    assert state(database, running.build.key) == state(database, queued.build.key) == "waiting"
    with database.write() as session, pytest.raises(Fenced):
        renew(session, claim, lease_seconds=30)
    with pytest.raises(Fenced), database.write() as session:
        publish_engine(session, claim, one_file_manifest(), engine=ENGINE, steps={})
    run_convert(database, running)
    assert state(database, running.build.key) == state(database, queued.build.key) == "queued"
    run_build(database, running)


def test_a_submit_converts_a_withdrawn_checkpoint_anew(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_engine(database, build_request)
    with database.write() as session:
        assert withdraw_checkpoint(session, build_request.convert.key, "bad") == []  # nobody waits for it
    other = new_request(limits="other")
    assert submit_request(database, other).announcements == [(build_request.convert.key, "convert.q")]
    assert state(database, other.build.key) == "waiting"


def test_a_recall_by_worker_withdraws_its_output_and_what_was_built_from_it(database: Database) -> None:
    for name in ("sick", "well"):
        add_worker(database, name)
    sick_build = new_request("sick build")
    mixed, clean = new_request("mixed"), new_request("clean")
    build_engine(database, sick_build, converter="well", builder="sick")
    build_engine(database, mixed, converter="sick", builder="well")
    build_engine(database, clean, converter="well", builder="well")
    busy = new_request("busy")
    submit_request(database, busy)
    claim = claim_now(database, busy.convert.key, "sick")
    engines, checkpoints = recalled(database, worker="sick", reason="bad memory")
    assert engines == sorted([sick_build.build.key, mixed.build.key])
    assert checkpoints == [mixed.convert.key]
    assert state(database, busy.convert.key) == "queued"
    with database.write() as session, pytest.raises(Fenced):
        renew(session, claim, lease_seconds=30)
    with database.read() as session:
        assert {w.name: w.quarantine for w in list_workers(session)} == {"sick": "bad memory", "well": None}
        assert [engine.key for engine in list_engines(session, limit=9, cursor=None).items] == [clean.build.key]
    assert recalled(database, worker="sick") == ([], [])


def test_a_recall_is_limited_by_times(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_engine(database, build_request)
    with database.read() as session:
        before, after = (session.execute(select(now(seconds))).scalar_one() for seconds in (-60, 60))
    assert recalled(database, since=after) == recalled(database, until=before) == ([], [])
    assert recalled(database, since=before, until=after) == ([build_request.build.key], [build_request.convert.key])


def test_a_recall_without_a_criterion_is_refused(database: Database) -> None:
    assert recalled(database, toolchain="aoti", version="2.13.0") == ([], [])
    for too_wide in ({}, {"version": "1"}, {"reason": "all"}):
        with pytest.raises(ValueError, match="give"):
            Recall.model_validate(too_wide)
    with database.write() as session, pytest.raises(NotFound):
        recall(session, Recall(worker="nobody"))


def test_a_withdrawn_engine_is_submitted_again(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_engine(database, build_request)
    recalled(database, worker="w1")
    with database.write() as session:
        accepted = submit_again(session, build_request.build.key, requested_by="admin")
    assert accepted.disposition is Disposition.CREATED
    assert accepted.announcements == [(build_request.convert.key, "convert.q")]


def test_a_damaged_blob_withdraws_its_engines_until_it_is_written_again(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_engine(database, build_request)
    blob = digest.of_bytes(b"engine")
    with database.write() as session:
        taken, _ = withdraw_damaged(session, [blob])
    assert (taken.engines, taken.checkpoints) == ([build_request.build.key], [])
    submit_request(database, build_request)
    claim = claim_now(database, build_request.build.key, "w1")
    with pytest.raises(IntegrityError, match="damaged"), database.write() as session:
        publish_engine(session, claim, one_file_manifest(), engine=ENGINE, steps={})
    assert state(database, build_request.build.key) == "running"  # nothing of it was done
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest(), engine=ENGINE, steps={}, rewritten=[blob])
    with database.read() as session:
        assert session.get_one(BlobRow, blob).damaged_at is None
        assert get_engine(session, build_request.build.key).contents[0].digest == blob


def test_a_build_with_a_damaged_checkpoint_waits_for_a_new_one(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    accepted = submit_request(database, build_request)
    run_convert(database, build_request)
    claim = claim_now(database, build_request.build.key)
    failure = Failure(cause="checkpoint_damaged", fault=Fault.FARM, detail="wrong bytes")
    with database.write() as session:
        announcements = withdraw_damaged_checkpoint(
            session, claim, digest.of_bytes(b"weights"), failure, max_tries=3, steps={}
        )  # fmt: skip
    assert announcements == [(build_request.convert.key, "convert.q")]
    assert state(database, build_request.build.key) == "waiting"
    with database.read() as session:
        attempts = get_build(session, accepted.id).attempts
    assert [(attempt.stage, attempt.outcome) for attempt in attempts] == [("convert", "succeeded"), ("build", "failed")]
    with database.write() as session, pytest.raises(Fenced):
        withdraw_damaged_checkpoint(session, claim, digest.of_bytes(b"weights"), failure, max_tries=3, steps={})
