"""Multipart uploads: in parallel, continued after a failure, completed only with the right bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any

import pytest
from botocore.exceptions import ClientError

from enginefarm.contract.digest import Digest, of_file
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.store import S3Store
from models.store.multipart import PART_SIZE
from models.store.part_buffers import PartBuffers
from tests.models.store.conftest import Place
from tests.models.store.test_s3 import at, settings_of
from tests.servers.proxy import Proxy

MIB = 1 << 20


class Stopped(Exception):
    pass


class Meter:
    """Counts the parts that were sent, and stops the upload after some."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.parts = 0
        self._stop_after = stop_after
        self._lock = Lock()

    def __call__(self, _: int) -> None:
        with self._lock:
            self.parts += 1
            if self.parts >= self._stop_after:
                raise Stopped


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of six parts and a short one, no two alike."""
    path = tmp_path_factory.mktemp("large") / "rank0.engine"
    with path.open("wb") as stream:
        for number in range(7):
            stream.write(number.to_bytes(8) * ((PART_SIZE if number < 6 else MIB) // 8))
    return path


@pytest.fixture(scope="module")
def digest(source: Path) -> Digest:
    return of_file(source)


@pytest.fixture(params=["swift", "second"])
def s3_place(request: pytest.FixtureRequest) -> Place:
    server_place: Place = request.getfixturevalue(f"{request.param}_place")
    return server_place


@pytest.fixture
def store(s3_place: Place) -> S3Store:
    store = at(s3_place)
    store.prepare()
    return store


@pytest.fixture
def swift(swift_place: Place) -> S3Store:
    """The strict server alone: moto says that every upload began in 2010, and treats aborted ones differently."""
    store = at(swift_place)
    store.prepare()
    return store


def unfinished_count(store: S3Store) -> int:
    return len(store.uploads().unfinished(store._prefix))


def test_a_file_in_parts_arrives_complete(store: S3Store, source: Path, digest: Digest) -> None:
    meter = Meter()
    store.put(source, digest, source.stat().st_size, meter)
    store.verify(digest, source.stat().st_size)
    assert (meter.parts, unfinished_count(store)) == (7, 0)
    store.put(source, digest, source.stat().st_size, meter)
    assert meter.parts == 7  # a stored blob is not sent again


def test_a_stopped_upload_continues_where_it_stopped(
    s3_place: Place, store: S3Store, source: Path, digest: Digest
) -> None:
    size = source.stat().st_size
    with pytest.raises(Stopped):
        store.put(source, digest, size, Meter(stop_after=4))
    assert store.stat(digest) is None
    assert unfinished_count(store) == 1
    port = int(settings_of(s3_place).endpoint.rpartition(":")[2])
    sent = SentBytes()
    with Proxy(port, alter=sent) as proxy:
        at(s3_place, endpoint=f"http://127.0.0.1:{proxy.port}").put(source, digest, size)
    assert sent.total < 4 * PART_SIZE  # the server had four of seven parts, the short one perhaps among them
    store.verify(digest, size)
    assert unfinished_count(store) == 0


class SentBytes:
    def __init__(self) -> None:
        self.total = 0

    def __call__(self, piece: bytes) -> bytes:
        self.total += len(piece)
        return piece


def test_a_file_that_changed_is_not_stored(store: S3Store, source: Path, digest: Digest, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.write_bytes(source.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="expected"):
        store.put(changed, digest, source.stat().st_size)
    assert store.stat(digest) is None
    assert unfinished_count(store) == 0


def test_two_workers_may_upload_the_same_file_at_once(
    s3_place: Place, store: S3Store, source: Path, digest: Digest
) -> None:
    """As a fenced worker and its successor do. They may share one upload or use two; both succeed."""
    start = Barrier(2)

    def put() -> None:
        start.wait()
        at(s3_place).put(source, digest, source.stat().st_size)

    with ThreadPoolExecutor() as pool:
        for upload in [pool.submit(put), pool.submit(put)]:
            upload.result()
    store.verify(digest, source.stat().st_size)


def test_an_upload_that_is_completed_but_answered_500_succeeds(
    swift_place: Place, swift: S3Store, source: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swift answers so when two workers complete one upload at once. The object then exists and is verified."""
    store = at(swift_place, patience=0)
    client = store.uploads()._client
    complete = client.complete_multipart_upload

    def complete_and_fail(**arguments: Any) -> None:
        complete(**arguments)
        response = {"Error": {"Code": "500"}, "ResponseMetadata": {"HTTPStatusCode": 500}}
        raise ClientError(response, "CompleteMultipartUpload")

    monkeypatch.setattr(client, "complete_multipart_upload", complete_and_fail)
    store.put(source, digest, source.stat().st_size)
    swift.verify(digest, source.stat().st_size)


def test_an_upload_that_another_process_aborts_starts_again(swift: S3Store, source: Path, digest: Digest) -> None:
    aborted = Event()

    def abort_once(_: int) -> None:
        if not aborted.is_set():
            aborted.set()
            swift.abort_stale(timedelta(seconds=-60))

    swift.put(source, digest, source.stat().st_size, abort_once)
    swift.verify(digest, source.stat().st_size)


def test_stale_uploads_are_removed_and_young_ones_stay(swift: S3Store, source: Path, digest: Digest) -> None:
    with pytest.raises(Stopped):
        swift.put(source, digest, source.stat().st_size, Meter(stop_after=1))
    assert swift.abort_stale(timedelta(hours=1)) == 0
    assert unfinished_count(swift) == 1
    assert swift.abort_stale(timedelta(seconds=-60)) == 1  # a minute ahead: servers' clocks differ
    assert unfinished_count(swift) == 0


def test_a_part_that_is_damaged_on_the_way_is_never_named(
    s3_place: Place, store: S3Store, source: Path, digest: Digest
) -> None:
    """One server compares parts with their MD5, the other with nothing: the store compares its answers, too."""
    damaged = Event()
    content_of_part_3 = (2).to_bytes(8) * 16

    def damage(piece: bytes) -> bytes:
        if content_of_part_3 in piece and not damaged.is_set():
            damaged.set()
            return piece.replace(content_of_part_3, b"x" * len(content_of_part_3), 1)
        return piece

    port = int(settings_of(s3_place).endpoint.rpartition(":")[2])
    with Proxy(port, alter=damage) as proxy:
        careful = at(s3_place, endpoint=f"http://127.0.0.1:{proxy.port}", patience=0)
        with pytest.raises((IntegrityError, StoreUnavailable)):
            careful.put(source, digest, source.stat().st_size)
    assert damaged.is_set()
    assert store.stat(digest) is None


def test_a_server_that_refuses_checksums_gets_an_upload_without(
    swift_place: Place, swift: S3Store, source: Path, digest: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = at(swift_place)
    client = store.uploads()._client
    create = client.create_multipart_upload

    def refuse_checksums(**arguments: Any) -> Any:
        if "ChecksumAlgorithm" in arguments:
            response = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
            raise ClientError(response, "CreateMultipartUpload")
        return create(**arguments)

    monkeypatch.setattr(client, "create_multipart_upload", refuse_checksums)
    store.put(source, digest, source.stat().st_size)
    swift.verify(digest, source.stat().st_size)


def test_buffers_are_shared_by_all_uploads_and_given_up_after_the_last() -> None:
    buffers = PartBuffers(2)
    with buffers:
        first, second = buffers.take(10), buffers.take(10)
        with buffers:
            buffers.give_back(first)
            assert buffers.take(10) is first
        buffers.give_back(first)
        buffers.give_back(second)
        assert len(buffers._free) == 2
    assert not buffers._free
