"""Which engines and checkpoints go, and that they go in two steps."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from enginefarm.contract.errors import Conflict, Gone
from enginefarm.wire.bodies import Disposition
from enginefarm.wire.retention import Policy, RemovalCandidate
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import CheckpointRow, EngineRow, ManifestRow, RemovalRow
from models.lifecycle.publication import publish_engine
from models.lifecycle.withdrawal import withdraw_engine
from models.queries.builds import get_build
from models.queries.engines import get_engine
from models.retention import removal
from models.retention.pins import set_pin
from models.retention.policies import checkpoints_to_remove, engines_to_remove, freed_bytes
from models.retention.pulls import engines_with_file, record_pull, without_recent_pull
from tests.models.making import built, converted, made
from tests.models.requests import ENGINE, add_worker, claimed, manifest, request, submitted

ALL = Policy(keep_last=0)


def aged(database: Database, key: str, **columns: float) -> None:
    """Set times of an engine to so many days ago."""
    values = {name: now(-days * 86400) for name, days in columns.items()}
    with database.write() as session:
        session.execute(update(EngineRow).where(EngineRow.key == key).values(**values))


def built_as(database: Database, limits: str, *, model: str = "llama", age: float = 0) -> str:
    """The key of an engine with bytes of its own, `age` days old."""
    wanted = request(model, limits)
    if submitted(database, wanted).announcements == [(wanted.convert.key, "convert.q")]:
        converted(database, wanted)
    held = claimed(database, wanted.build.key)
    with database.write() as session:
        publish_engine(session, held, manifest(f"{model} {limits}"), engine=ENGINE | {"model": model}, steps={})
    aged(database, wanted.build.key, created_at=age)
    return wanted.build.key


def going(database: Database, *policies: Policy) -> list[RemovalCandidate]:
    with database.read() as session:
        return engines_to_remove(session, policies, link_seconds=10)


def keys(found: list[RemovalCandidate]) -> list[str]:
    return [engine.key for engine in found]


def marked(database: Database, found: list[RemovalCandidate]) -> None:
    with database.write() as session:
        removal.mark(session, found)


def removed(database: Database, found: RemovalCandidate, *, grace: float = 0) -> bool:
    with database.write() as session:
        return removal.remove(session, found, grace_seconds=grace, removed_by="admin")


def test_the_newest_of_a_model_and_platform_stay(database: Database) -> None:
    add_worker(database)
    old, middle = built_as(database, "a", age=3), built_as(database, "b", age=2)
    newest, other = built_as(database, "c", age=1), built_as(database, "d", model="qwen@1", age=9)
    assert keys(going(database, Policy(keep_last=1))) == [middle, old]
    assert keys(going(database, Policy(keep_last=2))) == [old]
    assert keys(going(database, ALL)) == [newest, middle, old, other]
    assert keys(going(database, Policy(model="qwen", keep_last=0))) == [other]
    assert keys(going(database, Policy(model="q*", keep_last=5), ALL)) == [newest, middle, old]
    assert keys(going(database, Policy(platform="cpu-x86-64-v3", keep_last=2))) == [old]
    assert going(database, Policy(platform="NVIDIA H100", keep_last=0)) == going(database) == []


def test_what_is_young_or_was_pulled_stays_and_the_reason_says_what_did_not_keep_the_rest(database: Database) -> None:
    add_worker(database)
    young, pulled, old = (
        built_as(database, "a", age=1),
        built_as(database, "b", age=40),
        built_as(database, "c", age=50),
    )
    aged(database, pulled, pulled_at=5)
    policy = Policy(keep_days=30, keep_pulled_days=14, keep_last=0)
    (gone,) = going(database, policy)
    assert gone.key == old
    assert gone.reason == "2 of its model and platform are newer, older than 30 days, not pulled for 14 days"
    assert young not in keys(going(database, policy))
    for nothing in ({}, {"model": "llama"}):
        with pytest.raises(ValueError, match="say what is kept"):
            Policy.model_validate(nothing)


def test_nothing_goes_that_is_pinned_or_being_pulled(database: Database) -> None:
    add_worker(database)
    pinned, pulled = built_as(database, "a"), built_as(database, "b")
    with database.write() as session:
        set_pin(session, pinned, pinned=True)
        withdraw_engine(session, pinned, "bad")
        assert record_pull(session, [pulled])
    assert going(database, ALL) == []
    aged(database, pulled, pulled_at=1)
    assert keys(going(database, ALL)) == [pulled]


def test_an_engine_goes_in_two_steps_and_readers_are_told_why(database: Database) -> None:
    add_worker(database)
    wanted = request()
    build_id, key = made(database, wanted), wanted.build.key
    (found,) = going(database, ALL)
    assert not removed(database, found)  # not marked
    marked(database, [found])
    assert not removed(database, found, grace=60)
    with database.read() as session:
        assert get_engine(session, key).key == key  # served until it goes
    assert removed(database, found)
    assert not removed(database, found)
    with database.read() as session:
        with pytest.raises(Gone, match="removed: 0 of its model"):
            get_engine(session, key)
        error = get_build(session, build_id).error
        assert error is not None
        assert error.cause == "engine_removed"
        (row,) = session.execute(select(RemovalRow)).scalars()
        assert (row.kind, row.key, row.removed_by, row.size) == ("engine", key, "admin", len("engine"))
    assert submitted(database, wanted).disposition is Disposition.CREATED
    built(database, wanted)
    with database.read() as session:
        assert get_engine(session, key).key == key
        assert get_build(session, build_id).error is None


@pytest.mark.parametrize("keeps", ["pin", "pull", "policy", "rebuild"])
def test_what_was_marked_is_spared(database: Database, keeps: str) -> None:
    add_worker(database)
    key = built_as(database, "a")
    found = going(database, ALL)
    marked(database, found)
    with database.write() as session:
        if keeps == "pin":
            set_pin(session, key, pinned=True)
        elif keeps == "pull":
            assert without_recent_pull(session, [key]) == [key]
            assert record_pull(session, [key])
            assert without_recent_pull(session, [key]) == []
        elif keeps == "rebuild":
            withdraw_engine(session, key, "bad")
    if keeps == "policy":
        marked(database, [])
    if keeps == "rebuild":
        assert built_as(database, "a") == key
    assert not removed(database, found[0])


def test_the_grace_begins_anew_after_a_pull(database: Database) -> None:
    add_worker(database)
    key = built_as(database, "a")
    found = going(database, ALL)
    marked(database, found)
    aged(database, key, marked_for_removal_at=3, pulled_at=2)
    assert not removed(database, found[0], grace=86400)
    marked(database, found)
    assert not removed(database, found[0], grace=86400)
    aged(database, key, marked_for_removal_at=1.5)
    assert removed(database, found[0], grace=86400)


def test_an_engine_that_was_taken_out_goes_without_any_policy(database: Database) -> None:
    add_worker(database)
    key, other = built_as(database, "a"), built_as(database, "b")
    with database.write() as session:
        removal.request_removal(session, key, "deleted by admin")
        set_pin(session, other, pinned=True)
        with pytest.raises(Conflict, match="pinned"):
            removal.request_removal(session, other, "deleted by admin")
    (found,) = going(database)
    assert (found.key, found.reason) == (key, "withdrawn: deleted by admin")
    assert removed(database, found)


def checkpoints(database: Database, engines: list[str], *, keep_days: float = 0) -> list[RemovalCandidate]:
    with database.read() as session:
        return checkpoints_to_remove(session, engines, keep_days=keep_days)


def test_a_checkpoint_goes_after_its_last_engine_and_never_under_a_build(database: Database) -> None:
    add_worker(database)
    wanted = request(limits="a")
    made(database, wanted)
    assert checkpoints(database, []) == []
    assert checkpoints(database, [wanted.build.key], keep_days=1) == []
    (found,) = checkpoints(database, [wanted.build.key])
    assert found.key == wanted.convert.key
    marked(database, [found])
    other = request(limits="b")
    submitted(database, other)  # in flight: it starts from this checkpoint
    assert checkpoints(database, [wanted.build.key]) == []
    assert not removed(database, found)
    built(database, other)
    assert removed(database, found)
    with database.read() as session:
        assert session.execute(select(CheckpointRow)).first() is None
    third = request(limits="c")
    assert submitted(database, third).announcements == [(wanted.convert.key, "convert.q")]
    converted(database, third)
    built(database, third)


def test_manifests_go_with_the_last_that_has_them(database: Database) -> None:
    add_worker(database)
    for limits in ("a", "b"):
        made(database, request(limits=limits)) if limits == "a" else built_again(database, limits)
    with database.read() as session:
        assert len(engines_with_file(session, manifest("engine").files[0].digest)) == 2
        found = engines_to_remove(session, [ALL], link_seconds=10)
        assert freed_bytes(session, found[:1]) == 0  # the other engine has the same bytes
        assert freed_bytes(session, found) == len("engine")
    marked(database, found)
    for engine, left in zip(found, (2, 1), strict=True):
        assert removed(database, engine)
        with database.write() as session:
            removal.remove_manifests(session)
        assert count(database, ManifestRow) == left


def built_again(database: Database, limits: str) -> None:
    wanted = request(limits=limits)
    submitted(database, wanted)
    built(database, wanted)


def count(database: Database, row: type[Any]) -> int:
    with database.read() as session:
        return len(session.execute(select(row)).all())
