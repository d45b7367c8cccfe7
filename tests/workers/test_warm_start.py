"""A warm file costs time when it is lost, and never the attempt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract import digest
from enginefarm.contract.key import key_of
from migrations.upgrade import upgrade
from models.catalogue.database import Database
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, save_warm_file
from models.store import Store, open_store_url
from tests.models.store.blobs import put_bytes
from toolchains.toolchain import WarmFile
from workers.warm_start import WarmStart

WARM = WarmFile(path="kernels.cache", good_for={"card": "some"})


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'catalogue.db'}")
    upgrade(made.engine)
    yield made
    made.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store_url(f"file://{tmp_path / 'store'}", s3=None, link_secret=b"s" * 32)
    made.prepare()
    return made


@pytest.fixture
def warmth(tmp_path: Path, database: Database, store: Store) -> WarmStart:
    (tmp_path / "scratch").mkdir()
    return WarmStart.of("some", WARM, tmp_path / "scratch", database=database, store=store)


def kept(database: Database, warmth: WarmStart) -> StoredWarmFile | None:
    with database.read() as session:
        return find_warm_file(session, key_of(warmth.document))


def keep(database: Database, warmth: WarmStart, data: bytes) -> StoredWarmFile:
    known = StoredWarmFile(digest.of_bytes(data), len(data))
    with database.write() as session:
        save_warm_file(session, key_of(warmth.document), warmth.document, known)
    return known


def test_it_comes_back(warmth: WarmStart, database: Database, store: Store) -> None:
    known = keep(database, warmth, b"timings")
    put_bytes(store, b"timings")
    warmth.bring()
    assert (warmth.start, warmth.path.read_bytes()) == (known, b"timings")
    warmth.take_out()
    assert warmth.made is None, "nothing new was learned"
    warmth.path.write_bytes(b"timings and more")
    warmth.take_out()
    assert warmth.made == StoredWarmFile(digest.of_bytes(b"timings and more"), 16)
    assert kept(database, warmth) == known, "it is named only after the attempt was published"


def test_a_lost_or_broken_one_is_a_cold_start(
    warmth: WarmStart, database: Database, store: Store, tmp_path: Path
) -> None:
    known = keep(database, warmth, b"timings")
    warmth.bring()
    assert warmth.start is None
    assert not warmth.path.exists()
    put_bytes(store, b"timings")
    (blob,) = (path for path in (tmp_path / "store").rglob("*") if path.name == known.digest.removeprefix("sha256:"))
    blob.chmod(0o600)
    blob.write_bytes(b"timingz")
    warmth.bring()
    assert warmth.start is None
    assert not warmth.path.exists()


@pytest.mark.parametrize("left", [None, b""])
def test_a_stage_that_leaves_nothing(warmth: WarmStart, left: bytes | None) -> None:
    if left is not None:
        warmth.path.write_bytes(left)
    warmth.take_out()
    assert warmth.made is None


def test_a_store_that_is_away_keeps_nothing_and_fails_nothing(
    warmth: WarmStart, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "store").rename(tmp_path / "unmounted")
    warmth.path.write_bytes(b"timings")
    warmth.take_out()
    assert warmth.made is None
    assert kept(database, warmth) is None
