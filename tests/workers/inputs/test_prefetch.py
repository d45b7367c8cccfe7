"""A worker fetches the inputs of its next action ahead: a hint to others, ended at once when it has no purpose."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import update

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.manifest import FileEntry
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.fleet.worker_control import drain
from models.lifecycle.leases import Claim, claim_next
from models.lifecycle.publication import publish_checkpoint
from models.queue.order import MOST_HELD
from models.queue.prefetches import renew_reservation, reserve_next
from tests.farm.running_farm import eventually
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.store.blobs import put_bytes
from tests.workers.inputs.conftest import Node
from workers.inputs import prefetch as prefetch_module
from workers.inputs.prefetch import Prefetch
from workers.inputs.warm_records import WarmRecords

REQUEST = new_request("base")
ENTRY = one_file_manifest("weights of base").files[0]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Three workers, one of which is busy, and two queued builds from one checkpoint."""
    catalogue = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    for name in ("busy", "other", "third"):
        add_worker(catalogue, name)
    for limits in ("small", "large"):
        submit_request(catalogue, new_request("base", limits))
    with catalogue.write() as session:
        claim = claim_next(session, "convert.q", "other", lease_seconds=60)
        assert claim is not None
        publish_checkpoint(session, claim, one_file_manifest("weights of base"), facts={}, steps={})
    yield catalogue
    catalogue.close()


@pytest.fixture
def stage(database: Database) -> Claim:
    """What the busy worker computes; its next action comes from the same queue."""
    request = new_request("running")
    submit_request(database, request)
    convert = claim_now(database, request.convert.key, "busy")
    return Claim(convert.key, 1, 1, "build", "build.q", {}, {}, None, "busy")


@pytest.fixture
def leaving() -> threading.Event:
    return threading.Event()


@pytest.fixture
def prefetch(
    node: Node, database: Database, leaving: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Prefetch]:
    put_bytes(node.store, b"weights of base")
    monkeypatch.setattr(prefetch_module, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(prefetch_module, "_RENEW_SECONDS", 0.02)
    scratch = node.folder / "worker"
    scratch.mkdir()
    node.cache.root.mkdir()  # the stage has fetched its own inputs
    made = Prefetch(database, "busy", node.inputs(), cast(Any, SimpleNamespace(root=scratch)), leaving)
    yield made
    made.close()
    assert list(scratch.iterdir()) == []


def reserved_by(database: Database, key: str) -> str | None:
    with database.read() as session:
        return session.get_one(ActionRow, key).prefetched_by


def test_the_inputs_of_the_next_action_are_in_the_cache_before_it_is_claimed(
    node: Node, database: Database, prefetch: Prefetch, stage: Claim
) -> None:
    with prefetch.during(stage):
        assert eventually(lambda: node.cache.holds(ENTRY), seconds=20)
        assert eventually(lambda: list(WarmRecords(node.cache).held())) == [REQUEST.convert.key]
        assert reserved_by(database, REQUEST.build.key) == "busy"
    assert len(node.store.fetched) == 1
    with database.write() as session:
        claim = claim_next(session, "build.q", "busy", lease_seconds=60, held=WarmRecords(node.cache).held())
    assert claim is not None
    assert claim.inputs == REQUEST.convert.key


def test_a_reservation_is_a_hint_that_ends(database: Database) -> None:
    with database.write() as session:
        ours = reserve_next(session, "build.q", "busy", held=[], seconds=30)
        theirs = reserve_next(session, "build.q", "other", held=[], seconds=30)
        assert ours is not None
        assert theirs is not None
        assert ours.key != theirs.key, "two workers do not fetch for the same action"
        assert reserve_next(session, "build.q", "third", held=[], seconds=30) is None
        claim = claim_next(session, "build.q", "third", lease_seconds=60)
        assert claim is not None
        assert claim.key == ours.key, "an idle worker goes by age, whoever fetches ahead"
        assert not renew_reservation(session, ours.key, "busy", seconds=30)
        # Its worker was killed: nothing is undone, the hint ends.
        session.execute(update(ActionRow).where(ActionRow.key == theirs.key).values(prefetched_until=now(-1)))
        again = reserve_next(session, "build.q", "busy", held=[], seconds=30)
        assert again is not None
        assert again.key == theirs.key
        assert not renew_reservation(session, theirs.key, "other", seconds=30)


@pytest.mark.parametrize("reason", ["claimed by others", "something else is claimed", "leaving"])
def test_a_fetch_ends_when_it_has_no_purpose(
    node: Node, database: Database, prefetch: Prefetch, stage: Claim, leaving: threading.Event, reason: str
) -> None:
    node.store.gate.clear()
    with prefetch.during(stage):
        assert eventually(lambda: node.store.fetched, seconds=20)
    if reason == "claimed by others":
        for _ in range(2):
            with database.write() as session:
                assert claim_next(session, "build.q", "other", lease_seconds=60) is not None
    elif reason == "leaving":
        leaving.set()
    else:
        prefetch.claimed(stage.key)
    assert eventually(lambda: not any(thread.name == "prefetch" for thread in threading.enumerate()), seconds=10)
    assert not node.cache.holds(ENTRY)


def test_a_fetch_goes_on_for_the_attempt_that_waits_for_it(
    node: Node, database: Database, prefetch: Prefetch, stage: Claim
) -> None:
    node.store.gate.clear()
    with prefetch.during(stage):
        assert eventually(lambda: node.store.fetched, seconds=20)
    with database.write() as session:
        claim = claim_next(session, "build.q", "busy", lease_seconds=60)
    assert claim is not None
    prefetch.claimed(claim.key)
    node.store.gate.set()
    assert eventually(lambda: node.cache.holds(ENTRY), seconds=20)


def test_a_drained_worker_fetches_nothing_ahead(
    node: Node, database: Database, prefetch: Prefetch, stage: Claim
) -> None:
    with database.write() as session:
        drain(session, "busy")
    with prefetch.during(stage):
        threading.Event().wait(0.2)
    assert node.store.fetched == []


def test_records_name_what_the_cache_holds_and_stay_few(node: Node, tmp_path: Path) -> None:
    records = WarmRecords(node.cache)
    content = tmp_path / "content"
    content.write_bytes(b"weights")
    entry = FileEntry(path="w", digest=of_bytes(b"weights"), size=7)
    for number in range(MOST_HELD + 3):
        records.remember(f"{number:064x}", [entry])
    assert records.held() == [], "the cache does not have the file"
    node.cache.keep(content, entry)
    assert len(records.held()) == len(list((node.cache.root / "inputs").iterdir())) == MOST_HELD
    newest = f"{MOST_HELD + 2:064x}"
    (node.cache.root / "inputs" / newest).write_text('[["not a digest", "7"]]')
    assert newest not in records.held()
    assert WarmRecords(None).held() == ()
