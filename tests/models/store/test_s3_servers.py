"""Differences of S3 servers: bucket in host or path, private certificates, clocks, regions, ETags."""

from __future__ import annotations

import re
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import httpx
import minio.time
import pytest

from enginefarm.contract.digest import of_bytes, of_file
from enginefarm.contract.errors import IntegrityError, StoreUnavailable
from models.store import S3Settings, S3Store, Store
from models.store.multipart import PART_SIZE
from tests.models.store.blobs import put_bytes
from tests.models.store.conftest import Place
from tests.models.store.test_s3 import DATA, NAME, at, every_use, prepared
from tests.models.store.test_store import make
from tests.servers.proxy import Proxy
from tests.servers.s3 import DOMAIN, Moto, Swift
from tests.servers.tls import TlsFront

VALIDITY = timedelta(minutes=15)


def use_every_method(store: Store, folder: Path) -> None:
    """Call every method: store a small blob and one in parts, read, list, link and delete."""
    large = make(folder / "large", PART_SIZE + 1000)
    store.ping()
    put_bytes(store, DATA)
    store.put(large, of_file(large), PART_SIZE + 1000)
    store.fetch(of_file(large), PART_SIZE + 1000, folder / "copy")
    store.verify(NAME, len(DATA))
    assert {digest for digest, _ in store.list()} == {NAME, of_file(large)}
    assert b"".join(store.read(NAME, 10, 10)) == DATA[10:20]
    assert store.abort_stale(timedelta(0)) == 0
    assert httpx.get(store.link(NAME, filename="a", expires=VALIDITY)).content == DATA
    store.delete(NAME)
    assert store.stat(NAME) is None


@pytest.fixture
def named_hosts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Resolve the hosts of buckets to loopback, as a wildcard DNS name does; the fixture lists the names looked up."""
    looked_up: list[str] = []
    resolve = socket.getaddrinfo

    def answer(host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, str) and host.endswith(DOMAIN):
            looked_up.append(host)
            host = "127.0.0.1"
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return looked_up


def test_both_clients_name_the_bucket_in_the_host(
    swift_place: Place, s3_server: Swift, named_hosts: list[str], tmp_path: Path
) -> None:
    prepared(swift_place)  # servers create buckets by path
    store = at(swift_place, endpoint=f"http://{DOMAIN}:{s3_server.port}", addressing="virtual")
    use_every_method(store, tmp_path)
    assert set(named_hosts) == {f"enginefarm.{DOMAIN}"}


@pytest.mark.parametrize(
    ("endpoint", "addressing", "prefix"),
    [
        ("https://s3.example.com", "auto", "https://s3.example.com/bucket/"),
        ("https://s3.example.com", "virtual", "https://bucket.s3.example.com/blobs/"),
        ("https://s3.eu-central-1.amazonaws.com", "auto", "https://bucket.s3.eu-central-1.amazonaws.com/blobs/"),
        ("https://s3.eu-central-1.amazonaws.com", "path", "https://s3.eu-central-1.amazonaws.com/bucket/"),
    ],
)
def test_links_follow_the_addressing_too(endpoint: str, addressing: Any, prefix: str) -> None:
    settings = S3Settings(endpoint, "key", "secret", region="eu-central-1", addressing=addressing)
    assert S3Store("bucket", "", settings).link(NAME, filename="a", expires=VALIDITY).startswith(prefix)


def test_a_private_authority_is_trusted_when_it_is_named(
    swift_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(swift_place)
    with TlsFront(s3_server.port, tmp_path) as front:
        endpoint = f"https://localhost:{front.port}"
        for use in every_use(at(swift_place, endpoint=endpoint, patience=0.1), make(tmp_path / "source", 1000)):
            with pytest.raises(StoreUnavailable, match=r"certificate that is not trusted here; check .* SSL_CERT_FILE"):
                use()
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        use_every_method(at(swift_place, endpoint=endpoint), tmp_path)


def shift_clocks(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Shift the time that both clients sign requests with."""
    minio_now, botocore_now = minio.time.utcnow, botocore.auth.get_current_datetime
    monkeypatch.setattr(minio.time, "utcnow", lambda: minio_now() + by)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: botocore_now() + by)


@pytest.mark.parametrize("minutes", [-4, 4])
def test_a_clock_that_is_a_little_off_does_not_matter(
    swift_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    shift_clocks(monkeypatch, timedelta(minutes=minutes))
    use_every_method(prepared(swift_place), tmp_path)


@pytest.mark.parametrize("minutes", [-20, 20])
def test_a_clock_that_is_far_off_is_named_as_the_cause(
    swift_place: Place, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    store = prepared(swift_place)
    shift_clocks(monkeypatch, timedelta(minutes=minutes))
    for use in (lambda: put_bytes(store, DATA), lambda: list(store.list())):
        with pytest.raises(StoreUnavailable, match=r"answered (RequestTimeTooSkewed|AccessDenied); .*clock"):
            use()


def test_a_wrong_region_is_named_as_the_cause(swift_place: Place) -> None:
    prepared(swift_place)
    with pytest.raises(StoreUnavailable, match="check ENGINEFARM_S3_REGION"):
        put_bytes(at(swift_place, region="eu-west-1"), DATA)


def replace_etags(piece: bytes) -> bytes:
    """Answer as a server that encrypts: its ETags are not the MD5 of the bytes that were sent."""
    return re.sub(rb'(?i)(\r\netag: "?)[0-9a-f]{32}', lambda match: match[1] + b"5" * 32, piece)


def test_the_store_reads_an_object_back_if_its_etag_is_no_md5(moto: Moto) -> None:
    direct = S3Store("etagless", "", S3Settings(f"http://{moto.endpoint}", moto.access_key, moto.secret_key))
    direct.prepare()
    with Proxy(
        moto.port, alter_answer=replace_etags, alter=lambda piece: piece.replace(b"innocent", b"tampered")
    ) as proxy:
        settings = S3Settings(f"http://127.0.0.1:{proxy.port}", moto.access_key, moto.secret_key)
        store = S3Store("etagless", "", settings)
        put_bytes(store, DATA)
        with pytest.raises(IntegrityError, match="expected sha256:"):
            put_bytes(store, b"innocent data")
    direct.verify(NAME, len(DATA))
    assert direct.stat(of_bytes(b"innocent data")) is None
