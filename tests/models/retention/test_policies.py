"""Retention policies choose engines and checkpoints; they are removed in two steps."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import ColumnElement, select, update

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
from models.retention.policies import Batch, CheckpointReview, EngineReview, Goes, freed_bytes
from models.retention.pulls import engines_with_file, record_pull, without_recent_pull
from tests.models.collection import EVERY_KEY, remove_unused_manifests
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import build_engine, run_build, run_convert

ALL = Policy(keep_last=0)


def aged(database: Database, key: str, **columns: float) -> None:
    """Set times of an engine to so many days ago."""
    values = {name: now(-days * 86400) for name, days in columns.items()}
    with database.write() as session:
        session.execute(update(EngineRow).where(EngineRow.key == key).values(**values))


def built_as(database: Database, limits: str, *, model: str = "llama", age: float = 0) -> str:
    """The key of an engine with bytes of its own, `age` days old."""
    build_request = new_request(model, limits)
    if submit_request(database, build_request).announcements == [(build_request.convert.key, "convert.q")]:
        run_convert(database, build_request)
    claim = claim_now(database, build_request.build.key)
    with database.write() as session:
        publish_engine(
            session, claim, one_file_manifest(f"{model} {limits}"), engine=ENGINE | {"model": model}, steps={}
        )
    aged(database, build_request.build.key, created_at=age)
    return build_request.build.key


def decisions(database: Database, review: EngineReview | CheckpointReview) -> list[Batch]:
    batches = []
    with database.read() as session:
        while (batch := review.next_batch(session)) is not None:
            batches.append(batch)
    return batches


def going(database: Database, *policies: Policy, batch_size: int = 2) -> list[RemovalCandidate]:
    batches = decisions(database, EngineReview(policies, link_seconds=10, batch_size=batch_size))
    return [candidate for batch in batches for candidate in batch.candidates]


def keys(candidates: list[RemovalCandidate]) -> list[str]:
    return [engine.key for engine in candidates]


def marked(database: Database, *policies: Policy) -> None:
    for batch in decisions(database, EngineReview(policies, link_seconds=10, batch_size=2)):
        with database.write() as session:
            removal.mark(session, batch)


def removed(database: Database, *candidates: RemovalCandidate, grace: float = 0) -> bool:
    with database.write() as session:
        gone = removal.remove(session, candidates, grace_seconds=grace, removed_by="admin")
    assert gone <= {candidate.key for candidate in candidates}
    return bool(gone)


def freed(database: Database, goes: Goes) -> int:
    with database.read() as session:
        return freed_bytes(session, EVERY_KEY, goes)


def test_the_newest_engines_of_a_model_and_platform_stay(database: Database) -> None:
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


def test_new_and_pulled_engines_stay_and_the_others_have_a_reason(database: Database) -> None:
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


def test_pinned_engines_and_engines_being_pulled_stay(database: Database) -> None:
    add_worker(database)
    pinned, pulled = built_as(database, "a"), built_as(database, "b")
    with database.write() as session:
        set_pin(session, pinned, pinned=True)
        withdraw_engine(session, pinned, "bad")
        assert record_pull(session, [pulled])
    assert going(database, ALL) == []
    aged(database, pulled, pulled_at=1)
    assert keys(going(database, ALL)) == [pulled]


def test_an_engine_is_removed_in_two_steps_and_readers_get_the_reason(database: Database) -> None:
    add_worker(database)
    build_request = new_request()
    build_id, key = build_engine(database, build_request), build_request.build.key
    (candidate,) = going(database, ALL)
    assert not removed(database, candidate)  # not marked
    marked(database, ALL)
    assert not removed(database, candidate, grace=60)
    with database.read() as session:
        assert get_engine(session, key).key == key  # served until it goes
    assert removed(database, candidate)
    assert not removed(database, candidate)
    with database.read() as session:
        with pytest.raises(Gone, match="removed: 0 of its model"):
            get_engine(session, key)
        error = get_build(session, build_id).error
        assert error is not None
        assert error.cause == "engine_removed"
        (row,) = session.execute(select(RemovalRow)).scalars()
        assert (row.kind, row.key, row.removed_by, row.size) == ("engine", key, "admin", len("engine"))
    assert submit_request(database, build_request).disposition is Disposition.CREATED
    run_build(database, build_request)
    with database.read() as session:
        assert get_engine(session, key).key == key
        assert get_build(session, build_id).error is None


@pytest.mark.parametrize("keeps", ["pin", "pull", "policy", "rebuild"])
def test_a_marked_engine_stays_if_something_keeps_it(database: Database, keeps: str) -> None:
    add_worker(database)
    key = built_as(database, "a")
    candidates = going(database, ALL)
    marked(database, ALL)
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
        marked(database)
    if keeps == "rebuild":
        assert built_as(database, "a") == key
    assert not removed(database, candidates[0])


def test_the_grace_begins_anew_after_a_pull(database: Database) -> None:
    add_worker(database)
    key = built_as(database, "a")
    candidates = going(database, ALL)
    marked(database, ALL)
    aged(database, key, marked_for_removal_at=3, pulled_at=2)
    assert not removed(database, candidates[0], grace=86400)
    aged(database, key, pulled_at=2)
    marked(database, ALL)
    assert not removed(database, candidates[0], grace=86400)
    aged(database, key, marked_for_removal_at=1.5)
    assert removed(database, candidates[0], grace=86400)


def test_a_withdrawn_engine_is_removed_without_any_policy(database: Database) -> None:
    add_worker(database)
    key, other = built_as(database, "a"), built_as(database, "b")
    with database.write() as session:
        removal.request_removal(session, key, "deleted by admin")
        set_pin(session, other, pinned=True)
        with pytest.raises(Conflict, match="pinned"):
            removal.request_removal(session, other, "deleted by admin")
    (candidate,) = going(database)
    assert (candidate.key, candidate.reason) == (key, "withdrawn: deleted by admin")
    assert removed(database, candidate)


def checkpoints(database: Database, engines: list[str], *, keep_days: float = 0, mark: bool = False) -> list[str]:
    """The keys of the checkpoints that go if these engines go."""

    def goes(table: type[EngineRow | CheckpointRow]) -> ColumnElement[bool]:
        return table.key.in_(engines)

    keys = []
    for batch in decisions(database, CheckpointReview(goes, keep_days=keep_days, batch_size=1)):
        if mark:
            with database.write() as session:
                removal.mark(session, batch)
        keys += [candidate.key for candidate in batch.candidates]
    return keys


def test_a_checkpoint_is_removed_after_its_last_engine_and_never_under_a_build(database: Database) -> None:
    add_worker(database)
    build_request = new_request(limits="a")
    build_engine(database, build_request)
    assert checkpoints(database, []) == []
    assert checkpoints(database, [build_request.build.key], keep_days=1) == []
    engines = [build_request.build.key]
    assert checkpoints(database, engines, mark=True) == [build_request.convert.key]
    candidate = RemovalCandidate(kind="checkpoint", key=build_request.convert.key, size=7, reason="no engine is left")
    other = new_request(limits="b")
    submit_request(database, other)  # in flight: it starts from this checkpoint
    assert checkpoints(database, engines) == []
    assert not removed(database, candidate)
    run_build(database, other)
    assert removed(database, candidate)
    with database.read() as session:
        assert session.execute(select(CheckpointRow)).first() is None
    third = new_request(limits="c")
    assert submit_request(database, third).announcements == [(build_request.convert.key, "convert.q")]
    run_convert(database, third)
    run_build(database, third)


def test_a_manifest_is_removed_with_its_last_engine(database: Database) -> None:
    add_worker(database)
    for limits in ("a", "b"):
        build_engine(database, new_request(limits=limits)) if limits == "a" else built_again(database, limits)
    candidates = going(database, ALL)
    blob = one_file_manifest("engine").files[0].digest
    with database.read() as session:
        assert len(engines_with_file(session, blob, limit=9)) == 2
    # The other engine has the same bytes.
    assert freed(database, lambda table: table.key == candidates[0].key) == 0
    assert freed(database, lambda table: table.key.in_(keys(candidates))) == len("engine")
    marked(database, ALL)
    assert freed(database, removal.is_marked) == len("engine")
    for engine, left in zip(candidates, (2, 1), strict=True):
        assert removed(database, engine)
        with database.write() as session:
            remove_unused_manifests(session)
        assert count(database, ManifestRow) == left


def built_again(database: Database, limits: str) -> None:
    build_request = new_request(limits=limits)
    submit_request(database, build_request)
    run_build(database, build_request)


def count(database: Database, row: type[Any]) -> int:
    with database.read() as session:
        return len(session.execute(select(row)).all())
