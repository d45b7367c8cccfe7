"""Real servers for every test that asks: started on first use, one of each a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.servers.postgres import Databases, Postgres
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift
from tests.servers.server import Server, new_data_dir

S = TypeVar("S", bound=Server)


# Compilers and whole farms, minutes together.
LONG = ("tests/toolchains/aoti/", "tests/chaos/", "tests/farm/", "tests/simulation/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in parallel, long ones go first and those that share a costly fixture stay on one process."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    path = item.location[0]
    if path.startswith(LONG[0]):
        return LONG[0]
    return item.name if path == "tests/farm/test_end_to_end.py" else path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINEFARM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A Redis-compatible server; whoever kills it starts it again."""
    yield from _serve(Valkey)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """The server that ENGINEFARM_TEST_POSTGRES_URL names, else one of our own."""
    if named := os.environ.get("ENGINEFARM_TEST_POSTGRES_URL"):
        yield Databases(named)
    else:
        for server in _serve(Postgres):
            yield server.databases


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """An empty database for this test alone."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Swift]:
    """A strict S3 server; whoever kills it starts it again."""
    yield from _serve(Swift, xattrs=True)


def _serve(kind: Callable[..., S], *, xattrs: bool = False) -> Iterator[S]:
    data = new_data_dir(kind.__name__.lower(), xattrs=xattrs)
    try:
        with kind(data) as server:
            yield server
    finally:
        shutil.rmtree(data)
