"""Garbage collection deletes unreferenced bytes, and never bytes that are being published, in any order of events."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text

from enginefarm.contract import digest
from enginefarm.contract.errors import NotFound
from models.catalogue.database import Database
from models.catalogue.rows import BlobRow, ManifestRow, WarmFileRow
from models.lifecycle.blobs import NotStored, record_blobs, require_stored
from models.lifecycle.publication import publish_engine, read_manifest, record_manifest
from models.lifecycle.transitions import record_log
from models.lifecycle.warm_files import StoredWarmFile, save_warm_file
from models.retention import blob_gc as garbage
from models.store import DirectoryStore, Links
from tests.models.collection import EVERY_KEY, correct_all_marks, removable_blobs, remove_unused_manifests
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.models.stage_runs import run_convert
from tests.models.store.blobs import put_bytes
from tests.servers.postgres import Databases

DATA = b"engine"
BLOB = digest.of_bytes(DATA)
SIZES = {BLOB: len(DATA)}


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    directory_store = DirectoryStore(tmp_path / "store", Links(b"s" * 32))
    directory_store.prepare()
    return directory_store


@pytest.fixture
def postgresql(postgres: Databases) -> Iterator[Database]:
    url = postgres.create_migrated()
    catalogue = Database(url)
    yield catalogue
    catalogue.close()
    postgres.drop(url)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def marked(database: Database, store: DirectoryStore) -> None:
    with database.write() as session:
        correct_all_marks(session)
    with database.write() as session:
        garbage.adopt(session, dict(store.list()))


def collected(database: Database, store: DirectoryStore, *, grace: float = 0) -> list[str]:
    """What a clean-up deletes whose grace is as good as over."""
    with database.read() as session:
        digests = removable_blobs(session, grace=grace)
    gone = []
    for name in digests:
        with database.write() as session:
            if garbage.remove(session, store, name, grace_seconds=grace) is not None:
                gone.append(name)
    return gone


def kept(database: Database, store: DirectoryStore, key: str = "1" * 64) -> None:
    """Publish, as a warm file."""
    with database.write() as session:
        save_warm_file(session, key, {}, StoredWarmFile(BLOB, len(DATA)))
        require_stored(store, SIZES)


def released(database: Database) -> None:
    with database.write() as session:
        session.execute(delete(WarmFileRow))


def test_orphaned_bytes_are_deleted_after_their_grace(database: Database, store: DirectoryStore) -> None:
    put_bytes(store, DATA)
    assert collected(database, store) == []
    marked(database, store)
    assert collected(database, store, grace=60) == []
    with database.read() as session:
        assert garbage.total_in_grace(session, EVERY_KEY, grace_seconds=60).size == len(DATA)
        assert garbage.total_removable(session, EVERY_KEY, grace_seconds=0).files == 1
    assert collected(database, store) == [BLOB]
    assert store.stat(BLOB) is None
    with database.read() as session:
        assert session.execute(select(BlobRow)).first() is None


def test_a_referenced_blob_stays(database: Database, store: DirectoryStore) -> None:
    add_worker(database)
    put_bytes(store, DATA)
    log = (put_bytes(store, b"log"), 3)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key)
    with database.write() as session:
        record_log(session, claim.key, claim.attempt, log)
    kept(database, store)
    marked(database, store)
    assert collected(database, store) == []
    released(database)
    marked(database, store)
    assert collected(database, store) == [BLOB]


def test_a_log_that_an_older_farm_wrote_without_a_row_stays(database: Database, store: DirectoryStore) -> None:
    add_worker(database)
    log = (put_bytes(store, b"log"), 3)
    build_request = new_request()
    submit_request(database, build_request)
    claim = claim_now(database, build_request.convert.key)
    with database.write() as session:
        record_log(session, claim.key, claim.attempt, log)
        session.execute(delete(BlobRow))
    marked(database, store)
    assert collected(database, store) == []
    with database.read() as session:
        assert session.execute(select(BlobRow)).first() is None


def test_publishing_removes_the_mark_of_a_blob(database: Database, store: DirectoryStore) -> None:
    """Publishing also corrects the size in the row of orphaned bytes: the listed file may have been truncated."""
    with database.write() as session:
        garbage.adopt(session, {BLOB: 1})
    put_bytes(store, DATA)
    kept(database, store)
    assert collected(database, store) == []
    with database.read() as session:
        row = session.get_one(BlobRow, BLOB)
    assert (row.marked_for_removal_at, row.size) == (None, len(DATA))


def test_a_mark_on_a_blob_that_was_just_published_does_no_harm(database: Database, store: DirectoryStore) -> None:
    put_bytes(store, DATA)
    kept(database, store)
    with database.write() as session:
        session.execute(text("UPDATE blobs SET doomed_at = '2020-01-01 00:00:00'"))
    assert collected(database, store) == []
    with database.write() as session:
        assert garbage.remove(session, store, BLOB, grace_seconds=0) is None
        garbage.correct_marks(session, [BLOB])
        assert session.execute(select(BlobRow.marked_for_removal_at)).scalar_one() is None


def test_a_publisher_is_refused_if_its_bytes_were_collected(database: Database, store: DirectoryStore) -> None:
    put_bytes(store, DATA)  # the store has it, so it is not uploaded
    marked(database, store)
    assert collected(database, store) == [BLOB]
    with pytest.raises(NotStored, match="not in the store any more"):
        kept(database, store)
    with database.read() as session:
        assert session.execute(select(WarmFileRow)).first() is None
    put_bytes(store, DATA)
    kept(database, store)


def test_a_rolled_back_deletion_is_repeated_or_repaired(database: Database, store: DirectoryStore) -> None:
    """The collector dies between the bytes and its commit: a marked row without bytes is left."""
    put_bytes(store, DATA)
    marked(database, store)
    with database.write() as session:
        garbage.remove(session, store, BLOB, grace_seconds=0)
        session.rollback()
    with pytest.raises(NotStored):
        kept(database, store)
    put_bytes(store, DATA)
    kept(database, store)
    released(database)
    marked(database, store)
    store.delete(BLOB)
    assert collected(database, store) == [BLOB]


def blocked(database: Database, work: Future[None]) -> None:
    """Return when somebody waits for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = time.monotonic() + 60
    while True:
        with database.read() as session:
            if session.execute(query).scalar_one():
                return
        assert not work.done(), "it did not wait"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_publisher_waits_for_the_collector_and_is_then_refused(
    postgresql: Database, store: DirectoryStore, pool: ThreadPoolExecutor
) -> None:
    put_bytes(store, DATA)
    marked(postgresql, store)
    with postgresql.write() as session:
        assert garbage.remove(session, store, BLOB, grace_seconds=0) == len(DATA)
        publishing = pool.submit(kept, postgresql, store)
        blocked(postgresql, publishing)
    with pytest.raises(NotStored):
        publishing.result(timeout=60)
    put_bytes(store, DATA)
    kept(postgresql, store)
    marked(postgresql, store)
    assert collected(postgresql, store) == []
    assert store.stat(BLOB) == len(DATA)


def test_a_publisher_that_waited_for_a_rolled_back_collector_publishes(
    postgresql: Database, store: DirectoryStore, pool: ThreadPoolExecutor
) -> None:
    put_bytes(store, DATA)
    marked(postgresql, store)
    with postgresql.write() as session:
        session.execute(select(BlobRow.digest).where(BlobRow.digest == BLOB).with_for_update()).one()
        publishing = pool.submit(kept, postgresql, store)
        blocked(postgresql, publishing)
        session.rollback()
    publishing.result(timeout=60)
    assert collected(postgresql, store) == []


@pytest.mark.parametrize("published", [True, False])
def test_the_collector_skips_a_blob_that_is_being_published(
    postgresql: Database, store: DirectoryStore, pool: ThreadPoolExecutor, published: bool
) -> None:
    put_bytes(store, DATA)
    marked(postgresql, store)
    with postgresql.write() as session:
        save_warm_file(session, "1" * 64, {}, StoredWarmFile(BLOB, len(DATA)))
        assert pool.submit(collected, postgresql, store).result(timeout=60) == []
        require_stored(store, SIZES)
        if not published:
            session.rollback()
    assert collected(postgresql, store) == ([] if published else [BLOB])
    assert (store.stat(BLOB) is not None) is published


@pytest.mark.parametrize("published", [True, False])
def test_the_collector_waits_for_a_publisher_before_it_adopts_bytes(
    postgresql: Database, store: DirectoryStore, pool: ThreadPoolExecutor, published: bool
) -> None:
    put_bytes(store, DATA)
    with postgresql.write() as session:
        save_warm_file(session, "1" * 64, {}, StoredWarmFile(BLOB, len(DATA)))
        marking = pool.submit(marked, postgresql, store)
        blocked(postgresql, marking)
        require_stored(store, SIZES)
        if not published:
            session.rollback()
    marking.result(timeout=60)
    assert collected(postgresql, store) == ([] if published else [BLOB])
    assert (store.stat(BLOB) is not None) is published


def test_a_manifest_can_be_published_while_it_is_removed(
    postgresql: Database, store: DirectoryStore, pool: ThreadPoolExecutor
) -> None:
    add_worker(postgresql)
    build_request = new_request()
    submit_request(postgresql, build_request)
    run_convert(postgresql, build_request)
    claim = claim_now(postgresql, build_request.build.key)
    with postgresql.write() as session:
        record_manifest(session, one_file_manifest())  # of an engine that was removed

    def publish() -> None:
        with postgresql.write() as session:
            publish_engine(session, claim, one_file_manifest(), engine=ENGINE, steps={})

    with postgresql.write() as session:
        remove_unused_manifests(session)
        assert session.get(ManifestRow, one_file_manifest().digest) is None
        publishing = pool.submit(publish)
        blocked(postgresql, publishing)
    publishing.result(timeout=60)
    with postgresql.write() as session:
        remove_unused_manifests(session)
        assert read_manifest(session, one_file_manifest().digest) == one_file_manifest()


def test_a_manifest_that_is_being_published_is_skipped(postgresql: Database, pool: ThreadPoolExecutor) -> None:
    with postgresql.write() as session:
        record_manifest(session, one_file_manifest())

    def clean_up() -> None:
        with postgresql.write() as session:
            remove_unused_manifests(session)

    with postgresql.write() as session:
        record_manifest(session, one_file_manifest())
        pool.submit(clean_up).result(timeout=60)
    with postgresql.read() as session:
        assert read_manifest(session, one_file_manifest().digest) == one_file_manifest()
    clean_up()
    with postgresql.read() as session, pytest.raises(NotFound, match="a moment ago"):
        read_manifest(session, one_file_manifest().digest)


def test_concurrent_publishers_and_collectors_lose_no_bytes(postgresql: Database, store: DirectoryStore) -> None:
    """Shared files, no grace at all, attempts that are fenced at the last moment: every name has its bytes."""
    contents = [bytes([number]) * 10 for number in range(5)]
    sizes = {digest.of_bytes(data): len(data) for data in contents}
    by_name = {digest.of_bytes(data): data for data in contents}

    def publish(seed: int) -> None:
        chance = random.Random(seed)
        names = chance.sample(sorted(sizes), 3)
        for _ in range(12):
            for name in names:
                if store.stat(name) is None:
                    put_bytes(store, by_name[name])
            try:
                with postgresql.write() as session:
                    record_blobs(session, {name: sizes[name] for name in names})
                    for name in names:
                        save_warm_file(session, f"{seed:02x}{name[7:69]}", {}, StoredWarmFile(name, sizes[name]))
                    require_stored(store, {name: sizes[name] for name in names})
                    if chance.random() < 0.3:
                        session.rollback()
            except NotStored:
                continue

    def release(seed: int) -> None:
        for _ in range(15):
            with postgresql.write() as session:
                session.execute(delete(WarmFileRow).where(WarmFileRow.key.startswith(f"{seed % 6:02x}")))

    def collect(_: int) -> None:
        for _ in range(15):
            marked(postgresql, store)
            collected(postgresql, store)

    jobs: list[tuple[Callable[[int], None], int]] = [
        *((publish, seed) for seed in range(6)), (release, 0), (release, 1), (collect, 0), (collect, 1),
    ]  # fmt: skip
    with ThreadPoolExecutor(len(jobs)) as threads:
        for future in [threads.submit(job, seed) for job, seed in jobs]:
            future.result(timeout=120)
    with postgresql.read() as session:
        named = set(session.execute(select(WarmFileRow.blob)).scalars())
    assert named
    assert {name: store.stat(name) for name in named} == {name: sizes[name] for name in named}
    released(postgresql)
    marked(postgresql, store)
    collected(postgresql, store)
    assert list(store.list()) == []
