"""A farm double, its store double and a client of the farm. The doubles are empty when a test starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.client.farm import Farm
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.store_double import StoreDouble


@pytest.fixture(scope="session")
def doubles() -> Iterator[tuple[FarmDouble, StoreDouble]]:
    with StoreDouble() as store, FarmDouble(store) as double:
        yield double, store


@pytest.fixture
def store(doubles: tuple[FarmDouble, StoreDouble]) -> StoreDouble:
    doubles[1].reset()
    return doubles[1]


@pytest.fixture
def double(doubles: tuple[FarmDouble, StoreDouble], store: StoreDouble) -> FarmDouble:
    doubles[0].reset()
    return doubles[0]


@pytest.fixture
def client(double: FarmDouble) -> Iterator[Farm]:
    with Farm(double.url, "secret-key", timeout=5, patience=10) as farm:
        yield farm


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "tiny"
