"""Fixtures with real servers, started on first use, one of each per session; the order of parallel tests."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

from api.http.openapi import document_of
from tests.servers.postgres import Databases, Postgres
from tests.servers.redis import Valkey
from tests.servers.s3 import SeaweedFS, Swift
from tests.servers.server import Server, new_data_dir

S = TypeVar("S", bound=Server)


_NO_TLS_OPTIONS = {"verify": True, "cert": None, "trust_env": True}

# Folders whose tests run compilers, programs or whole farms: minutes together.
_LONG_TESTS = (
    "tests/toolchains/aoti/", "tests/chaos/", "tests/farm/", "tests/simulation/", "tests/attack/", "tests/api/",
    "tests/deployment/", "tests/workers/", "tests/migrations/",
)  # fmt: skip

# Tests of several files that run on one process, because they share what takes seconds to make.
_TOGETHER = {
    "compiled engines": ("tests/toolchains/aoti/",),
    "a farm": (
        "tests/farm/test_cached_submits.py", "tests/farm/test_explain.py", "tests/farm/test_many.py",
        "tests/farm/test_signals.py",
    ),
    "SeaweedFS": ("tests/attack/test_privileges.py", "tests/deployment/test_store_server.py"),
    "Swift": (
        "tests/farm/test_end_to_end.py::test_a_build_runs_from_submit_to_download_on_s3", "tests/api/test_bundles.py",
        "tests/models/store/", "tests/models/sources/test_bucket_source.py",
    ),
}  # fmt: skip


def pytest_configure() -> None:
    """A shell starts programs in the background with SIGINT ignored, and the programs of tests would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long tests start first: one that starts last would run alone while the other processes have nothing to do."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG_TESTS))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep tests that share a costly fixture on one process of pytest-xdist."""
    return _ByFixture(config, log)


class _ByFixture(LoadScopeScheduling):  # type: ignore[misc]  # the library states no types
    # The marks `xdist_group` would say the same, but pytest-xdist 3.8 cannot read them with pytest 9.2.
    def _split_scope(self, nodeid: str) -> str:
        for shared, tests in _TOGETHER.items():
            if nodeid.startswith(tests):
                return shared
        return nodeid.partition("::")[0]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests use an empty node cache, not the one of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINEFARM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def bytecode_kept() -> Iterator[None]:
    """Let child processes write bytecode: a hundred of them compile the checkout else, a fifth of a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def certificates_read_once() -> Iterator[None]:
    """Let clients of httpx share the machine's certificates.

    Each `httpx.get` makes a client, which reads them: 25 ms of processor time, a third of a core while a test polls.
    """
    load = cache(httpx.create_ssl_context)

    def create_ssl_context(**options: Any) -> ssl.SSLContext:
        if options != _NO_TLS_OPTIONS or os.environ.keys() & {"SSL_CERT_FILE", "SSL_CERT_DIR"}:
            return httpx.create_ssl_context(**options)
        return load()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", create_ssl_context)
        yield


@pytest.fixture(scope="session", autouse=True)
def openapi_document_made_once() -> Iterator[None]:
    """Let the APIs in this process share their OpenAPI document: it is half of the time that `create_app` takes."""
    documents: dict[str, dict[str, Any]] = {}

    def shared_document_of(app: FastAPI) -> dict[str, Any]:
        servers = str(app.servers)  # the routes are the same in each
        if servers not in documents:
            documents[servers] = document_of(app)
        return documents[servers]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.app.document_of", shared_document_of)
        yield


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A Redis-compatible server. A test that kills it must start it again."""
    yield from _serve(Valkey)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """The server that ENGINEFARM_TEST_POSTGRES_URL names, else one that the session starts."""
    url = os.environ.get("ENGINEFARM_TEST_POSTGRES_URL")
    if url:
        databases = Databases(url)
        yield databases
        databases.drop_template()
    else:
        for server in _serve(Postgres):
            yield server.databases


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """The URL of an empty database for one test."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Swift]:
    """A strict S3 server. A test that kills it must start it again."""
    yield from _serve(Swift, xattrs=True)


@pytest.fixture(scope="session")
def store_server() -> Iterator[SeaweedFS]:
    """The S3 server of compose.yaml with its accounts and its bucket."""
    for server in _serve(SeaweedFS):
        server.create_bucket()
        server.create_bucket()  # as each `docker compose up` does
        yield server


def _serve(kind: Callable[..., S], *, xattrs: bool = False) -> Iterator[S]:
    data = new_data_dir(kind.__name__.lower(), xattrs=xattrs)
    try:
        with kind(data) as server:
            yield server
    finally:
        shutil.rmtree(data)
