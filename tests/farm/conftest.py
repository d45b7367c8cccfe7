from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.farm.running_farm import RunningFarm, s3_settings
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey
from tests.servers.s3 import Swift


@pytest.fixture(scope="module")
def running_farm(
    postgres: Databases, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFarm]:
    """PostgreSQL, Valkey and a folder store, with an API. Each test says which workers it has, and uses its own model,
    whose checkpoint no other test has made."""
    url, state = postgres.create_migrated(), tmp_path_factory.mktemp("farm")
    settings = {"DATABASE_URL": url, "BROKER_URL": fresh_broker(valkey), "STORE_URL": f"file://{state / 'store'}"}
    for farm in run_farm(state, settings):
        farm.add_api()
        yield farm
    postgres.drop(url)


@pytest.fixture
def s3_farm(postgres_url: str, valkey: Valkey, s3_server: Swift, tmp_path: Path) -> Iterator[RunningFarm]:
    """PostgreSQL, Valkey and a real S3 server."""
    settings = {"DATABASE_URL": postgres_url, "BROKER_URL": fresh_broker(valkey), **s3_settings(s3_server)}
    yield from run_farm(tmp_path, settings)


@pytest.fixture(scope="package")
def shared_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """For tests of several files that do not disturb one another."""
    yield from small_farm(tmp_path_factory)


def small_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """SQLite, a Valkey of its own and a folder store, with an API and a worker."""
    state = tmp_path_factory.mktemp("farm")
    with Valkey(tmp_path_factory.mktemp("broker")) as broker:
        settings = {
            "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "BROKER_URL": broker.url,
            "STORE_URL": f"file://{state / 'store'}",
        }  # fmt: skip
        for farm in run_farm(state, settings):
            farm.add_api()
            farm.add_worker("w1")
            yield farm


def run_farm(state: Path, settings: dict[str, str]) -> Iterator[RunningFarm]:
    farm = RunningFarm(state, settings)
    try:
        yield farm
    finally:
        farm.close()


def fresh_broker(valkey: Valkey) -> str:
    """The URL of the session's broker, emptied of messages of earlier tests."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url
