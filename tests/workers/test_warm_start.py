"""A lost warm file costs time, never the attempt."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract import digest
from enginefarm.contract.key import key_of
from models.catalogue.database import Database
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, save_warm_file
from models.store import Store, open_store_url
from tests.migrated import migrated_sqlite
from tests.models.store.blobs import put_bytes
from toolchains.toolchain import WarmFile
from workers.warm_start import WarmStart

WARM = WarmFile(path="kernels.cache", good_for={"card": "some"})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    yield database
    database.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store_url(f"file://{tmp_path / 'store'}", s3=None, link_secret=b"s" * 32)
    store.prepare()
    return store


@pytest.fixture
def warm_start(tmp_path: Path, database: Database, store: Store) -> WarmStart:
    (tmp_path / "scratch").mkdir()
    return WarmStart.of("some", WARM, tmp_path / "scratch", database=database, store=store)


def stored_warm_file(database: Database, warm_start: WarmStart) -> StoredWarmFile | None:
    with database.read() as session:
        return find_warm_file(session, key_of(warm_start.document))


def store_warm_file(database: Database, warm_start: WarmStart, content: bytes) -> StoredWarmFile:
    stored = StoredWarmFile(digest.of_bytes(content), len(content))
    with database.write() as session:
        save_warm_file(session, key_of(warm_start.document), warm_start.document, stored)
    return stored


def test_a_stage_starts_from_the_stored_warm_file_and_uploads_only_a_changed_one(
    warm_start: WarmStart, database: Database, store: Store
) -> None:
    stored = store_warm_file(database, warm_start, b"timings")
    put_bytes(store, b"timings")
    warm_start.fetch()
    assert (warm_start.start, warm_start.path.read_bytes()) == (stored, b"timings")
    warm_start.upload()
    assert warm_start.uploaded is None, "nothing new was learned"
    warm_start.path.write_bytes(b"timings and more")
    warm_start.upload()
    assert warm_start.uploaded == StoredWarmFile(digest.of_bytes(b"timings and more"), 16)
    assert stored_warm_file(database, warm_start) == stored, "it is named only after the attempt was published"


def test_a_lost_or_damaged_warm_file_is_a_cold_start(
    warm_start: WarmStart, database: Database, store: Store, tmp_path: Path
) -> None:
    stored = store_warm_file(database, warm_start, b"timings")
    warm_start.fetch()
    assert warm_start.start is None
    assert not warm_start.path.exists()
    put_bytes(store, b"timings")
    (blob,) = (path for path in (tmp_path / "store").rglob("*") if path.name == stored.digest.removeprefix("sha256:"))
    blob.chmod(0o600)
    blob.write_bytes(b"timingz")
    warm_start.fetch()
    assert warm_start.start is None
    assert not warm_start.path.exists()


@pytest.mark.parametrize("content", [None, b""])
def test_an_empty_or_missing_warm_file_is_not_uploaded(warm_start: WarmStart, content: bytes | None) -> None:
    if content is not None:
        warm_start.path.write_bytes(content)
    warm_start.upload()
    assert warm_start.uploaded is None


def test_an_unavailable_store_fails_no_stage(warm_start: WarmStart, database: Database, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "unmounted")
    warm_start.path.write_bytes(b"timings")
    warm_start.upload()
    assert warm_start.uploaded is None
    assert stored_warm_file(database, warm_start) is None


def test_a_link_in_place_of_the_warm_file_is_not_uploaded(warm_start: WarmStart, tmp_path: Path) -> None:
    (tmp_path / "signing.pem").write_bytes(b"secret")
    warm_start.path.symlink_to(tmp_path / "signing.pem")
    warm_start.upload()
    assert warm_start.uploaded is None
    assert not any(path.is_file() for path in (tmp_path / "store").rglob("*"))


@pytest.mark.timeout(30)
def test_a_named_pipe_in_place_of_the_warm_file_blocks_no_worker(warm_start: WarmStart) -> None:
    os.mkfifo(warm_start.path)
    warm_start.upload()
    assert warm_start.uploaded is None
