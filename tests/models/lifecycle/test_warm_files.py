"""Warm files: that of the last successful run is used, and an attempt records the time it saved."""

from __future__ import annotations

from enginefarm.contract import digest
from models.catalogue.database import Database
from models.lifecycle.leases import Claim
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, record_warmth, save_warm_file
from models.queries.builds import get_build
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request

KEY = "a" * 64
OLD, NEW = (StoredWarmFile(digest.of_bytes(data), len(data)) for data in (b"old", b"newer"))


def built(database: Database, limits: str, seconds: float) -> tuple[str, Claim]:
    """A build of the same model that took its stage so long; its id and claim."""
    build_request = new_request(limits=limits)
    accepted = submit_request(database, build_request)
    if any(key == build_request.convert.key for key, _ in accepted.announcements):
        claim = claim_now(database, build_request.convert.key)
        with database.write() as session:
            publish_checkpoint(session, claim, one_file_manifest(), facts={}, steps={"convert": 99.0})
    claim = claim_now(database, build_request.build.key)
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest(limits), engine=ENGINE, steps={"build": seconds})
    return accepted.id, claim


def test_a_warm_file_is_that_of_the_last_successful_run(database: Database) -> None:
    with database.read() as session:
        assert find_warm_file(session, KEY) is None
    for kept in (OLD, NEW):
        with database.write() as session:
            save_warm_file(session, KEY, {"for": "tests"}, kept)
        with database.read() as session:
            assert find_warm_file(session, KEY) == kept


def test_the_time_that_a_warm_start_saved_is_recorded(database: Database) -> None:
    add_worker(database)
    first, claim = built(database, "alone", 40)
    with database.write() as session:
        record_warmth(session, claim, OLD, seconds=40)
    with database.read() as session:
        (_, attempt) = get_build(session, first).attempts
    assert (attempt.warm, attempt.saved_seconds) == (True, None), "nothing to compare with"
    for limits, seconds in (("a", 100.0), ("b", 130.0), ("c", 110.0)):
        cold, _ = built(database, limits, seconds)
    warm, claim = built(database, "warm", 50)
    with database.write() as session:
        record_warmth(session, claim, OLD, seconds=50)
    with database.read() as session:
        attempt = get_build(session, warm).attempts[-1]
        assert (attempt.warm, attempt.saved_seconds) == (True, 60)
        assert get_build(session, cold).attempts[-1].warm is False
