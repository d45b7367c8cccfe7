"""Rounds that remove past rows: a bounded number of batches, no transaction that writes if all rows stay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from api.upkeep.past_builds import PastRows, Removed
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, AttemptRow, BuildRow
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker, new_request, submit_request
from tests.models.stage_runs import build_engine

_DAYS = 2.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    yield database
    database.close()


def rounds(database: Database, *, days: float = _DAYS, **limits: int) -> PastRows:
    settings = SimpleNamespace(past_build_days=days)
    control: Any = SimpleNamespace(database=database, settings=settings, leaving=threading.Event())
    return PastRows(control, **limits)


def age(database: Database) -> None:
    past = now(-2 * _DAYS * 86400)
    with database.write() as session:
        session.execute(update(BuildRow).values(created_at=past))
        session.execute(update(BuildRow).where(BuildRow.ended_at.is_not(None)).values(ended_at=past))
        session.execute(update(ActionRow).values(queued_at=past))
        session.execute(update(AttemptRow).values(started_at=past, ended_at=past))


def test_rows_that_stay_cost_no_transaction_that_writes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add_worker(database)
    for number in range(5):
        build_engine(database, new_request(model=f"model {number}"))
    age(database)
    writes: list[Session] = []
    write = database.write

    @contextmanager
    def counted() -> Iterator[Session]:
        with write() as session:
            writes.append(session)
            yield session

    monkeypatch.setattr(database, "write", counted)
    assert rounds(database, batch=2).remove_batches() == Removed()
    assert len(writes) == 1  # the workers, which are few


def test_a_round_goes_on_where_the_last_one_ended(database: Database) -> None:
    add_worker(database)
    for number in range(4):
        build_engine(database, new_request(model=f"model {number}"))
    repeated = new_request()
    build_engine(database, repeated)
    for _ in range(3):
        submit_request(database, repeated)
    age(database)
    rows = rounds(database, batch=2, idle_batches=1)
    # The first four builds stay, and fill the first two rounds.
    assert [rows.remove_batches().builds for _ in range(3)] == [0, 0, 3]


def test_actions_and_attempts_stay_for_a_day_at_least(database: Database) -> None:
    add_worker(database)
    submit_request(database, new_request())
    with database.write() as session:
        session.execute(update(ActionRow).values(state="cancelled", queued_at=now(-0.9 * 86400)))
        session.execute(update(BuildRow).values(state="cancelled", created_at=now(-9e4), ended_at=now(-9e4)))
    assert rounds(database, days=0.1).remove_batches() == Removed(builds=1)
