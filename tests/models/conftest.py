"""Fixtures of an empty catalogue on SQLite and on PostgreSQL, migrated as in production."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrations.upgrade import upgrade
from models.catalogue.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'catalogue.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    catalogue = Database(database_url)
    upgrade(catalogue.engine)
    yield catalogue
    catalogue.close()
