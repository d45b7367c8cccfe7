"""The same store three times: in a folder, on Swift, and on a second S3 server."""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from minio import Minio

from enginefarm.contract.digest import Digest
from models.store import S3Settings, Store, open_store_url
from models.store.protocol import blob_name
from tests.servers.s3 import Moto, Swift
from tests.servers.server import new_data_dir

SECRET = b"a secret that signs links"


@dataclass(frozen=True)
class Place:
    """The URL of a store, and how to change its bytes without the store."""

    url: str
    s3: S3Settings | None = None

    def open(self) -> Store:
        return open_store_url(self.url, s3=self.s3, link_secret=SECRET)

    def overwrite(self, digest: Digest, content: bytes) -> None:
        url = urlsplit(self.url)
        if self.s3 is None:
            (Path(url.path) / blob_name(digest)).write_bytes(content)
            return
        name = f"{url.path.strip('/')}/{blob_name(digest)}"
        client = Minio(
            urlsplit(self.s3.endpoint).netloc,
            access_key=self.s3.access_key,
            secret_key=self.s3.secret_key,
            region=self.s3.region,
            secure=self.s3.endpoint.startswith("https"),
        )
        client.put_object(url.netloc, name, io.BytesIO(content), len(content))


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    data_dir = new_data_dir("moto")
    with Moto(data_dir) as server:
        yield server
    shutil.rmtree(data_dir)


@pytest.fixture
def folder_place(tmp_path: Path) -> Place:
    return Place(f"file://{tmp_path}/store")


@pytest.fixture
def swift_place(s3_server: Swift) -> Place:
    return on_server(s3_server.url, "enginefarm")


@pytest.fixture
def second_place(request: pytest.FixtureRequest) -> Place:
    """The server of ENGINEFARM_TEST_S3_URL (http://ACCESS:SECRET@host:port/bucket), or moto."""
    if named_url := os.environ.get("ENGINEFARM_TEST_S3_URL"):
        return on_server(named_url, urlsplit(named_url).path.strip("/"))
    return on_server(request.getfixturevalue("moto").url, "enginefarm")


def on_server(url: str, bucket: str) -> Place:
    """Return a new place on the server at `url`, which holds the credentials."""
    server = urlsplit(url)
    settings = S3Settings(
        endpoint=f"{server.scheme}://{server.hostname}:{server.port}",
        access_key=unquote(server.username or ""),
        secret_key=unquote(server.password or ""),
    )
    return Place(f"s3://{bucket}/tests/{secrets.token_hex(8)}", settings)


@pytest.fixture(params=["folder", "swift", "second"])
def place(request: pytest.FixtureRequest) -> Place:
    selected: Place = request.getfixturevalue(f"{request.param}_place")
    return selected


@pytest.fixture
def store(place: Place) -> Store:
    opened = place.open()
    opened.prepare()
    return opened
