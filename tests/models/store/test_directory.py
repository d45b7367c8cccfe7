"""Stores in a folder: volumes that are not mounted, full disks, foreign files, dead writers."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from enginefarm.contract.digest import of_bytes, of_file
from enginefarm.contract.errors import FarmError, StoreUnavailable
from models.store import DirectoryStore, Links
from tests.models.store.blobs import put_bytes

NAME = of_bytes(b"data")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store", Links(b"a secret that signs links"))


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Writing fails beyond `size` bytes of a file, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_missing_folder_is_an_outage_and_is_not_created(store: DirectoryStore, tmp_path: Path) -> None:
    for use in (
        store.ping,
        lambda: store.stat(NAME),
        lambda: put_bytes(store, b"data"),
        lambda: list(store.read(NAME)),
        lambda: list(store.list()),
        lambda: store.delete(NAME),
    ):
        with pytest.raises(StoreUnavailable, match="No such file or directory; mount it, or run"):
            use()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("place", ["file", "loop"])
def test_something_else_in_place_of_the_folder_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/{place} .*; let the URL name a folder"):
        DirectoryStore(tmp_path / place, Links(b"a secret that signs links")).prepare()


def test_a_full_disk_is_an_outage_and_leaves_no_file(store: DirectoryStore, tmp_path: Path) -> None:
    store.prepare()
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))

    with files_limited_to(2 << 20), pytest.raises(StoreUnavailable, match="File too large"):
        store.put(source, of_file(source), 3 << 20)

    assert list(store.list()) == []
    assert list((tmp_path / "store" / "staging").iterdir()) == []
    store.put(source, of_file(source), 3 << 20)


def test_only_blobs_are_listed(store: DirectoryStore, tmp_path: Path) -> None:
    store.prepare()
    put_bytes(store, b"data")
    hexdigits = NAME.removeprefix("sha256:")
    wrong_shard = "00" if not hexdigits.startswith("00") else "01"
    (tmp_path / "store/blobs/sha256" / wrong_shard / hexdigits).write_bytes(b"data")
    (tmp_path / "store/blobs/sha256" / hexdigits[:2] / "README").write_bytes(b"data")

    assert list(store.list()) == [(NAME, 4)]


def test_the_file_of_a_dead_writer_is_removed_once_it_is_old(store: DirectoryStore, tmp_path: Path) -> None:
    store.prepare()
    unfinished = tmp_path / "store" / "staging" / ".0.partial"
    unfinished.write_bytes(b"half")
    assert store.abort_stale(timedelta(hours=1)) == 0
    os.utime(unfinished, (0, 0))
    assert store.abort_stale(timedelta(hours=1)) == 1
    assert not unfinished.exists()


def test_a_link_or_a_pipe_in_place_of_a_source_is_not_read(store: DirectoryStore, tmp_path: Path) -> None:
    """A program may swap a file of its output between its hashing and its upload."""
    store.prepare()
    (tmp_path / "secret").write_bytes(b"data")
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(FarmError, match=f"{name} cannot be read: {name} is a"):
            store.put(tmp_path / name, NAME, 4)
    assert store.stat(NAME) is None
