"""Warm files: the last good one is found, and an attempt says what it saved."""

from __future__ import annotations

from enginefarm.contract import digest
from models.catalogue.database import Database
from models.lifecycle.leases import Claim
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, record_warmth, save_warm_file
from models.queries.builds import get_build
from tests.models.requests import ENGINE, add_worker, claimed, manifest, request, submitted

KEY = "a" * 64
OLD, NEW = (StoredWarmFile(digest.of_bytes(data), len(data)) for data in (b"old", b"newer"))


def built(database: Database, limits: str, seconds: float) -> tuple[str, Claim]:
    """A build of the same model that took its stage so long; its id and claim."""
    wanted = request(limits=limits)
    accepted = submitted(database, wanted)
    if any(key == wanted.convert.key for key, _ in accepted.announcements):
        held = claimed(database, wanted.convert.key)
        with database.write() as session:
            publish_checkpoint(session, held, manifest(), facts={}, steps={"convert": 99.0})
    held = claimed(database, wanted.build.key)
    with database.write() as session:
        publish_engine(session, held, manifest(limits), engine=ENGINE, steps={"build": seconds})
    return accepted.id, held


def test_the_last_good_one_is_found(database: Database) -> None:
    with database.read() as session:
        assert find_warm_file(session, KEY) is None
    for kept in (OLD, NEW):
        with database.write() as session:
            save_warm_file(session, KEY, {"for": "tests"}, kept)
        with database.read() as session:
            assert find_warm_file(session, KEY) == kept


def test_what_a_warm_start_saved(database: Database) -> None:
    add_worker(database)
    first, held = built(database, "alone", 40)
    with database.write() as session:
        record_warmth(session, held, OLD, seconds=40)
    with database.read() as session:
        (_, attempt) = get_build(session, first).attempts
    assert (attempt.warm, attempt.saved_seconds) == (True, None), "nothing to compare with"
    for limits, seconds in (("a", 100.0), ("b", 130.0), ("c", 110.0)):
        cold, _ = built(database, limits, seconds)
    warm, held = built(database, "warm", 50)
    with database.write() as session:
        record_warmth(session, held, OLD, seconds=50)
    with database.read() as session:
        attempt = get_build(session, warm).attempts[-1]
        assert (attempt.warm, attempt.saved_seconds) == (True, 60)
        assert get_build(session, cold).attempts[-1].warm is False
