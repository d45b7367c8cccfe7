"""Tests that every store passes: blobs come back unchanged, and wrong bytes are never stored."""

from __future__ import annotations

import multiprocessing
import random
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from enginefarm.contract.digest import of_bytes, of_file, read_chunks
from enginefarm.contract.errors import FarmError, IntegrityError, InvalidRequest, NotFound, StoreUnavailable
from models.store import Store
from tests.models.store.blobs import put_bytes
from tests.models.store.conftest import Place

MIB = 1 << 20
DATA = bytes(range(256)) * 4
NAME = of_bytes(DATA)
ABSENT = of_bytes(b"never stored")


def make(path: Path, size: int) -> Path:
    """Return a file of random bytes that are the same in every run."""
    path.write_bytes(random.Random(size).randbytes(size))
    return path


@pytest.mark.parametrize("size", [0, 1, 1000, 16 * MIB, 16 * MIB + 1, 37 * MIB])
def test_a_blob_that_was_put_can_be_fetched(store: Store, tmp_path: Path, size: int) -> None:
    source = make(tmp_path / "source", size)
    name = of_file(source)

    store.put(source, name, size)

    assert store.stat(name) == size
    store.verify(name, size)
    store.fetch(name, size, tmp_path / "copy")
    assert of_file(tmp_path / "copy") == name
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["copy", "source"]


def test_bytes_are_put_under_their_digest(store: Store) -> None:
    assert put_bytes(store, DATA) == NAME
    assert b"".join(store.read(NAME)) == DATA
    assert list(store.list()) == [(NAME, len(DATA))]


def test_a_second_put_changes_nothing(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", 1000)
    name = of_file(source)
    store.put(source, name, 1000)
    source.unlink()  # so that reading it again would fail

    store.put(source, name, 1000)

    store.verify(name, 1000)


@pytest.mark.parametrize("size", [0, 1000, 20 * MIB])
def test_wrong_bytes_are_refused_and_not_stored(store: Store, tmp_path: Path, size: int) -> None:
    source = make(tmp_path / "source", size)

    with pytest.raises(IntegrityError, match="source"):
        store.put(source, ABSENT, size)

    assert store.stat(ABSENT) is None
    assert list(store.list()) == []


@pytest.mark.parametrize("difference", [-1, +1])
def test_bytes_of_a_wrong_size_are_refused_and_not_stored(store: Store, tmp_path: Path, difference: int) -> None:
    source = make(tmp_path / "source", 1000)

    with pytest.raises(IntegrityError):
        store.put(source, of_file(source), 1000 + difference)

    assert list(store.list()) == []


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_store(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FarmError, match=r"missing cannot be read: there is no file missing") as caught:
        store.put(tmp_path / "missing", NAME, len(DATA))
    assert not isinstance(caught.value, StoreUnavailable)


def test_eight_threads_may_put_the_same_blob(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", MIB)
    name = of_file(source)
    start = threading.Barrier(8)

    def put(_: int) -> None:
        start.wait()
        store.put(source, name, MIB)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))

    store.verify(name, MIB)
    assert list(store.list()) == [(name, MIB)]


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (1, None),
        (10, 20),
        (1023, 1),
        (1023, 5),
        (1000, 1000),
        (1024, None),
        (1024, 1),
        (5000, 3),
    ],
)
def test_ranges_are_cut_like_slices(store: Store, start: int, length: int | None) -> None:
    put_bytes(store, DATA)
    end = None if length is None else start + length
    assert b"".join(store.read(NAME, start, length)) == DATA[start:end]


@pytest.mark.parametrize(("start", "length"), [(0, None), (0, 10), (5, None)])
def test_an_empty_blob_has_no_bytes_anywhere(store: Store, start: int, length: int | None) -> None:
    assert b"".join(store.read(put_bytes(store, b""), start, length)) == b""


def test_a_range_with_negative_numbers_is_refused(store: Store) -> None:
    put_bytes(store, DATA)
    for start, length in [(-1, None), (0, -1)]:
        with pytest.raises(ValueError, match="negative"):
            list(store.read(NAME, start, length))


def test_a_reader_may_stop_early(store: Store, tmp_path: Path) -> None:
    source = make(tmp_path / "source", 5 * MIB)
    name = of_file(source)
    store.put(source, name, 5 * MIB)
    for _ in range(20):  # more than there are connections
        chunks = store.read(name)
        assert next(chunks)
        chunks.close()
    store.verify(name, 5 * MIB)


def test_a_blob_that_was_never_stored_is_not_found(store: Store, tmp_path: Path) -> None:
    assert store.stat(ABSENT) is None
    for length in (None, 0, 1):
        with pytest.raises(NotFound, match=ABSENT):
            list(store.read(ABSENT, 0, length))
    with pytest.raises(NotFound):
        store.verify(ABSENT, 1)
    with pytest.raises(NotFound):
        store.fetch(ABSENT, 1, tmp_path / "copy")
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


@pytest.mark.parametrize(
    "stored", [DATA[:-1], DATA + b"x", b"x" + DATA[1:], b""], ids=["short", "long", "altered", "empty"]
)
def test_a_damaged_blob_is_neither_verified_nor_fetched(
    store: Store, place: Place, tmp_path: Path, stored: bytes
) -> None:
    put_bytes(store, DATA)
    place.overwrite(NAME, stored)

    with pytest.raises(IntegrityError, match=NAME):
        store.verify(NAME, len(DATA))
    with pytest.raises(IntegrityError, match=NAME):
        store.fetch(NAME, len(DATA), tmp_path / "copy")

    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_a_fetch_that_fails_leaves_the_old_file(store: Store, place: Place, tmp_path: Path) -> None:
    put_bytes(store, DATA)
    place.overwrite(NAME, b"x" * len(DATA))
    (tmp_path / "copy").write_bytes(b"old")

    with pytest.raises(IntegrityError):
        store.fetch(NAME, len(DATA), tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"old"


def test_a_blob_of_the_wrong_size_is_put_again(store: Store, place: Place, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    for put in (lambda: store.put(source, NAME, len(DATA)), lambda: put_bytes(store, DATA)):
        place.overwrite(NAME, DATA[:-1])
        put()
        store.verify(NAME, len(DATA))


def test_a_blob_can_be_deleted_twice(store: Store) -> None:
    put_bytes(store, DATA)
    store.delete(NAME)
    store.delete(NAME)
    assert store.stat(NAME) is None
    assert list(store.list()) == []


def test_list_yields_exactly_the_stored_blobs(store: Store) -> None:
    expected = {(put_bytes(store, content), len(content)) for content in (b"", b"small", DATA)}
    assert set(store.list()) == expected


def test_prepare_and_ping_may_be_repeated(store: Store) -> None:
    store.prepare()
    store.ping()
    store.ping()


@pytest.mark.parametrize(
    "name", ["", "sha256:", "sha256:../../etc/passwd", NAME.upper(), NAME + "\n", "md5:" + "0" * 64]
)
def test_only_digests_name_blobs(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not a digest"):
        store.stat(name)
    with pytest.raises(InvalidRequest, match="not a digest"):
        store.delete(name)
    with pytest.raises(InvalidRequest, match="not a digest"):
        list(store.read(name, 0, 0))
    with pytest.raises(InvalidRequest, match="not a digest"):
        store.link(name, filename="a", expires=timedelta(minutes=1))


@pytest.mark.parametrize("filename", ["", "..", "a/b", "a\r\nSet-Cookie: b", "x" * 256])
def test_links_are_saved_under_plain_names_only(store: Store, filename: str) -> None:
    with pytest.raises(InvalidRequest, match="plain file name"):
        store.link(NAME, filename=filename, expires=timedelta(minutes=1))


@pytest.mark.parametrize("expires", [timedelta(0), timedelta(seconds=-5), timedelta(days=8)])
def test_links_are_valid_for_a_week_at_most(store: Store, expires: timedelta) -> None:
    with pytest.raises(ValueError, match="cannot be good for"):
        store.link(NAME, filename="a", expires=expires)


def test_memory_does_not_grow_with_the_blob(store: Store, tmp_path: Path) -> None:
    size = 96 * MIB
    source = tmp_path / "source"
    with source.open("xb") as stream:
        stream.truncate(size)
    name = of_file(source)
    store.abort_stale(timedelta(days=1))  # opens the client of multipart uploads, whose 12 MiB are there once
    tracemalloc.start()
    try:
        store.put(source, name, size)
        _, put_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        store.fetch(name, size, tmp_path / "copy")
        _, fetch_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        store.put_stream(read_chunks(source), name, size)
        _, stream_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert put_peak < 64 * MIB  # a part of 8 MiB for each of four connections, and change
    assert fetch_peak < 8 * MIB
    assert stream_peak < 80 * MIB  # a part more, and one that is being filled


def test_a_killed_put_stores_the_complete_blob_or_none(store: Store, place: Place, tmp_path: Path) -> None:
    size = 48 * MIB
    source = make(tmp_path / "source", size)
    name = of_file(source)
    context = multiprocessing.get_context("spawn")
    begun = context.Event()
    child = context.Process(target=_put, args=(place, source, name, size, begun))
    child.start()
    assert begun.wait(60)

    child.join(0.1)
    child.kill()
    child.join()

    if store.stat(name) is not None:
        store.verify(name, size)
    store.put(source, name, size)
    store.verify(name, size)


def _put(place: Place, source: Path, name: str, size: int, begun: Event) -> None:
    store = place.open()
    begun.set()
    store.put(source, name, size)


@pytest.mark.parametrize("size", [0, 1000, 8 * MIB, 21 * MIB + 5])
def test_a_stream_is_stored_also_over_a_blob_of_its_name(store: Store, tmp_path: Path, size: int) -> None:
    name = of_file(make(tmp_path / "source", size))
    for _ in range(2):  # the second time over the stored blob
        with (tmp_path / "source").open("rb") as source:
            store.put_stream(iter(lambda: source.read(300_000), b""), name, size)
        store.verify(name, size)


@pytest.mark.parametrize("size", [1000, 21 * MIB + 5])
@pytest.mark.parametrize("defect", ["short", "long", "other", "broken"])
def test_a_wrong_or_broken_stream_is_not_stored(store: Store, tmp_path: Path, size: int, defect: str) -> None:
    name = of_file(make(tmp_path / "source", size))
    content = (tmp_path / "source").read_bytes()
    variants = {"short": content[:-1], "long": content + b"x", "other": content[:-1] + b"?"}

    def chunks() -> Iterator[bytes]:
        if defect == "broken":
            yield content[: size // 2]
            raise ConnectionResetError
        yield variants[defect]

    with pytest.raises((IntegrityError, ConnectionResetError, StoreUnavailable)):
        store.put_stream(chunks(), name, size)
    assert store.stat(name) is None
    assert store.abort_stale(timedelta(0)) == 0
