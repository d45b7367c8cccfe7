"""One query a second serves every request, guesses included; a new key works at once; uses are written in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from api.access.callers import Callers
from enginefarm.contract.errors import Unauthenticated
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import Scope
from models.security.key_format import new_key, text_of
from tests.migrated import migrated_sqlite


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    yield database
    database.close()


@pytest.fixture
def queries(database: Database) -> list[str]:
    """The statements of the test so far."""
    seen: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    return seen


def create(database: Database, name: str) -> str:
    with database.write() as session:
        return access.create(session, name, [Scope.READ])


def test_a_burst_of_keys_and_guesses_costs_one_query(database: Database, queries: list[str]) -> None:
    keys = [create(database, f"key {number}") for number in range(20)]
    guesses = [text_of(new_key()) for _ in range(200)]
    queries.clear()

    async def burst() -> list[str | None]:
        callers = Callers(database)
        found = await asyncio.gather(*(callers.find(key) for key in keys + guesses))
        return [caller.name if caller else None for caller in found]

    assert asyncio.run(burst()) == [f"key {number}" for number in range(20)] + [None] * 200
    assert len([query for query in queries if query.startswith("SELECT")]) == 1


def test_a_caller_that_leaves_does_not_spoil_the_query_of_the_others(database: Database) -> None:
    key = create(database, "ci")

    async def leave() -> str | None:
        callers = Callers(database)
        leaving = asyncio.create_task(callers.find(key))
        staying = asyncio.create_task(callers.find(key))
        await asyncio.sleep(0)
        leaving.cancel()
        caller = await staying
        return caller.name if caller else None

    assert asyncio.run(leave()) == "ci"


def test_a_new_key_works_at_once_and_is_remembered(database: Database, queries: list[str]) -> None:
    async def use_new_key() -> None:
        callers = Callers(database)
        assert await callers.find(text_of(new_key())) is None  # the active keys are read now
        key = create(database, "new")
        assert await callers.find(key) is None
        assert (await callers.find_anew(key)).name == "new"
        queries.clear()
        caller = await callers.find(key)
        assert caller is not None
        assert not queries
        with pytest.raises(Unauthenticated):
            await callers.find_anew(text_of(new_key()))

    asyncio.run(use_new_key())


def test_the_last_use_is_written_between_requests_and_once_a_minute(database: Database, queries: list[str]) -> None:
    key = create(database, "ci")
    create(database, "idle")

    async def use() -> None:
        callers = Callers(database)
        queries.clear()
        await callers.find(key)
        assert not [query for query in queries if query.startswith("UPDATE")]
        await callers.write_use()
        queries.clear()
        await callers.find(key)
        await callers.write_use()
        assert not queries

    asyncio.run(use())
    with database.read() as session:
        ci, idle = access.list_keys(session)
    assert ci.last_used_at is not None
    assert idle.last_used_at is None
