"""Stores on an S3 server: outages, cut and altered transfers, credentials, presigned links."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from enginefarm.contract.digest import of_bytes, of_file
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.store import S3Settings, S3Store, Store
from models.store.multipart import PART_SIZE
from tests.models.store.blobs import put_bytes
from tests.models.store.conftest import Place
from tests.models.store.test_store import make
from tests.servers.proxy import Proxy
from tests.servers.s3 import Moto, Swift

MIB = 1 << 20
DATA = bytes(range(256)) * 4
NAME = of_bytes(DATA)
LARGE = PART_SIZE + 1  # bytes: large enough for a multipart upload


@pytest.fixture
def store(swift_place: Place) -> Store:
    return prepared(swift_place)


def prepared(place: Place) -> Store:
    opened = place.open()
    opened.prepare()
    return opened


def settings_of(place: Place, **changes: Any) -> S3Settings:
    assert place.s3 is not None
    return replace(place.s3, **changes)


def at(place: Place, *, patience: float = 30, **changes: str) -> S3Store:
    """Return the store at `place`, with changed settings."""
    url = urlsplit(place.url)
    return S3Store(url.netloc, url.path, settings_of(place, **changes), patience=patience)


def every_use(store: Store, source: Path) -> list[Callable[[], object]]:
    return [
        store.ping,
        store.prepare,
        lambda: store.stat(NAME),
        lambda: store.put(source, of_file(source), source.stat().st_size),
        lambda: put_bytes(store, DATA),
        lambda: list(store.read(NAME)),
        lambda: store.verify(NAME, len(DATA)),
        lambda: store.delete(NAME),
        lambda: list(store.list()),
        lambda: store.put_stream(iter([bytes(LARGE)]), of_bytes(bytes(LARGE)), LARGE),
        lambda: store.abort_stale(timedelta(days=1)),
    ]


@pytest.mark.parametrize("server", ["swift", "second"])
def test_a_link_serves_the_blob_over_http(server: str, request: pytest.FixtureRequest) -> None:
    store = prepared(request.getfixturevalue(f"{server}_place"))
    link = store.link(put_bytes(store, DATA), filename="rank0.engine", expires=timedelta(minutes=1))

    full = httpx.get(link)
    assert (full.status_code, full.content) == (200, DATA)
    assert full.headers["content-disposition"] == 'attachment; filename="rank0.engine"'
    partial = httpx.get(link, headers={"Range": "bytes=10-19"})
    assert (partial.status_code, partial.content) == (206, DATA[10:20])


def test_a_changed_link_is_refused(store: Store) -> None:
    link = store.link(put_bytes(store, DATA), filename="a", expires=timedelta(minutes=1))
    assert httpx.get(link.replace("X-Amz-Expires=60", "X-Amz-Expires=600")).status_code == 403
    other_digits = put_bytes(store, b"other").removeprefix("sha256:")
    digits = NAME.removeprefix("sha256:")
    assert httpx.get(link.replace(f"{digits[:2]}/{digits}", f"{other_digits[:2]}/{other_digits}")).status_code == 403


def test_a_link_expires(store: Store) -> None:
    link = store.link(put_bytes(store, DATA), filename="a", expires=timedelta(seconds=1))
    deadline = time.monotonic() + 10
    while httpx.get(link).status_code != 403:
        assert time.monotonic() < deadline, "the link is still valid ten seconds after its time"
        time.sleep(0.1)


def test_links_name_the_public_endpoint(swift_place: Place) -> None:
    store = at(swift_place, public_endpoint="https://s3.example.com")
    link = store.link(NAME, filename="a", expires=timedelta(minutes=1))
    assert link.startswith("https://s3.example.com/enginefarm/tests/")
    secret_key = settings_of(swift_place).secret_key
    assert secret_key is not None
    assert secret_key not in link


def test_a_killed_server_is_an_outage_until_it_runs_again(
    store: Store, swift_place: Place, s3_server: Swift, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", 1000)
    put_bytes(store, DATA)
    s3_server.kill()
    try:
        for use in every_use(at(swift_place, patience=0.1), source):
            with pytest.raises(
                StoreUnavailable, match=r"cannot be reached \((NewConnectionError|EndpointConnectionError)\); check"
            ):
                use()
        with ThreadPoolExecutor() as pool:
            waiting_put = pool.submit(store.put, source, of_file(source), 1000)
            s3_server.start()
            waiting_put.result()
    finally:
        if not s3_server.running:
            s3_server.start()
    store.verify(of_file(source), 1000)
    store.verify(NAME, len(DATA))


def test_a_cut_download_continues_behind_its_last_byte(swift_place: Place, s3_server: Swift, tmp_path: Path) -> None:
    source = make(tmp_path / "source", 8 * MIB)
    prepared(swift_place).put(source, of_file(source), 8 * MIB)

    with Proxy(s3_server.port, cut_after=3 * MIB, cuts=2) as proxy:
        store = at(swift_place, endpoint=f"http://127.0.0.1:{proxy.port}")
        store.fetch(of_file(source), 8 * MIB, tmp_path / "copy")
        assert proxy.cuts_left == 0

    assert of_file(tmp_path / "copy") == of_file(source)


def test_a_download_without_progress_is_an_outage(swift_place: Place, s3_server: Swift, tmp_path: Path) -> None:
    source = make(tmp_path / "source", 4 * MIB)
    prepared(swift_place).put(source, of_file(source), 4 * MIB)

    with Proxy(s3_server.port, cut_after=32 * 1024, cuts=1000) as proxy:
        store = at(swift_place, endpoint=f"http://127.0.0.1:{proxy.port}", patience=3)
        with pytest.raises(StoreUnavailable):
            store.fetch(of_file(source), 4 * MIB, tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_a_strict_server_refuses_bytes_that_changed_on_the_way(swift_place: Place, s3_server: Swift) -> None:
    store = prepared(swift_place)
    with Proxy(s3_server.port, alter=lambda piece: piece.replace(b"innocent", b"tampered")) as proxy:
        altered = at(swift_place, endpoint=f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(StoreUnavailable, match="answered"):
            put_bytes(altered, b"innocent data")
    assert store.stat(of_bytes(b"innocent data")) is None


def test_the_store_removes_bytes_that_changed_on_the_way_to_a_lax_server(moto: Moto, tmp_path: Path) -> None:
    settings = S3Settings(f"http://{moto.endpoint}", moto.access_key, moto.secret_key)
    direct = S3Store("lax", "", settings)
    direct.prepare()
    with Proxy(moto.port, alter=lambda piece: piece.replace(b"innocent", b"tampered")) as proxy:
        store = S3Store("lax", "", replace(settings, endpoint=f"http://127.0.0.1:{proxy.port}"))
        with pytest.raises(IntegrityError, match="expected sha256:"):
            put_bytes(store, b"innocent data")
    assert direct.stat(of_bytes(b"innocent data")) is None


def test_wrong_credentials_are_explained_without_repeating_them(
    store: Store, swift_place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    put_bytes(store, DATA)
    source = make(tmp_path / "source", 1000)
    wrong_store = at(swift_place, secret_key="5eCr3t-but-wrong")

    for use in every_use(wrong_store, source):
        with pytest.raises(StoreUnavailable, match="check ENGINEFARM_S3_ACCESS_KEY") as caught:
            use()
        report = "".join(traceback.format_exception(caught.value))
        assert "5eCr3t" not in report
        assert "test:tester" not in report
        assert caught.value.__cause__ is None  # some servers repeat the key and what was signed
    assert "5eCr3t" not in caplog.text


def test_settings_do_not_show_their_secrets() -> None:
    text = repr(S3Settings("http://127.0.0.1:9000", access_key="AKIA123", secret_key="5eCr3t"))
    assert "AKIA123" not in text
    assert "5eCr3t" not in text


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://key:5eCr3t@host", "http://host/bucket"]
)
def test_an_endpoint_is_scheme_and_host(endpoint: str) -> None:
    with pytest.raises(ValueError, match="an S3 endpoint is") as caught:
        S3Settings(endpoint, access_key="a", secret_key="b")
    assert "5eCr3t" not in str(caught.value)


def test_a_missing_bucket_is_an_outage(swift_place: Place) -> None:
    store = S3Store("not-there", "", settings_of(swift_place))
    with pytest.raises(StoreUnavailable, match="no such bucket; create it"):
        store.ping()
    with pytest.raises(StoreUnavailable, match="NoSuchBucket; create the bucket"):
        put_bytes(store, DATA)
    with pytest.raises(StoreUnavailable, match="NoSuchBucket; create the bucket"):
        list(store.list())
