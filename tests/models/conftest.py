"""Fixtures of an empty catalogue on SQLite and on PostgreSQL, with the tables that the migrations make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalogue.database import Database
from tests.migrated import migrated_sqlite
from tests.servers.postgres import Databases


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield migrated_sqlite(tmp_path / "catalogue.db")
    else:
        postgres: Databases = request.getfixturevalue("postgres")
        url = postgres.create_migrated()
        yield url
        postgres.drop(url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    catalogue = Database(database_url)
    yield catalogue
    catalogue.close()
