"""Garbage collection of a full catalogue: the same statements for each batch, with a bounded number of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import func, select, update

from api.upkeep.garbage_collection import clean_up
from enginefarm.wire.retention import MAX_GOING, CleanUpRequest, Policy
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import BlobRow, DryRunRemovalRow, EngineRow, ManifestRow, RemovalRow
from models.retention.pins import set_pin
from models.store import DirectoryStore, Links
from tests.api.published import settings_in
from tests.migrated import migrated_sqlite
from tests.models.copies import copy_engine
from tests.models.requests import add_worker, new_request
from tests.models.stage_runs import build_engine
from tests.models.statements import recorded_statements
from tests.servers.postgres import Databases

_BATCH = 7
_COPIES = 60
_ALL = CleanUpRequest(policies=(Policy(keep_last=0),))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        catalogue = Database(migrated_sqlite(tmp_path / "catalogue.db"))
        yield catalogue
        catalogue.close()
        return
    postgres: Databases = request.getfixturevalue("postgres")
    url = postgres.create_migrated()
    catalogue = Database(url)
    yield catalogue
    catalogue.close()
    postgres.drop(url)


@pytest.fixture
def control(database: Database, tmp_path: Path) -> Any:
    """What garbage collection needs of a control plane, without a grace."""
    store = DirectoryStore(tmp_path / "store", Links(b"s" * 32))
    store.prepare()
    settings = settings_in(tmp_path, GC_GRACE_SECONDS="0", GC_CHECKPOINT_DAYS="0", LINK_SECONDS="10")
    return SimpleNamespace(database=database, settings=settings, store=store)


def _count(database: Database, row: Any) -> int:
    with database.read() as session:
        return session.execute(select(func.count()).select_from(row)).scalar_one()


def _fill(database: Database, count: int) -> str:
    """The key of the first engine."""
    add_worker(database)
    first = new_request()
    build_engine(database, first)
    copy_engine(database, first.build.key, count, models=3)
    return first.build.key


def _end_grace(database: Database) -> None:
    with database.write() as session:
        for row in (EngineRow, BlobRow):
            session.execute(
                update(row).where(row.marked_for_removal_at.is_not(None)).values(marked_for_removal_at=now(-3600))
            )


def test_all_but_a_pinned_engine_go_in_batches(control: Any, database: Database) -> None:
    pinned = _fill(database, _COPIES)
    with database.write() as session:
        set_pin(session, pinned, pinned=True)
    with recorded_statements(database) as statements:
        predicted = clean_up(control, CleanUpRequest(policies=_ALL.policies, dry_run=True), by=None, batch=_BATCH)
        assert _count(database, DryRunRemovalRow) == 0
        first = clean_up(control, _ALL, by="admin", batch=_BATCH)
        _end_grace(database)
        second = clean_up(control, _ALL, by="admin", batch=_BATCH)
        _end_grace(database)
        third = clean_up(control, _ALL, by="admin", batch=_BATCH)
    assert {result.total for result in (predicted, first, second)} == {_COPIES}
    assert {result.frees for result in (predicted, first, second)} == {_COPIES * len("engine")}
    assert [candidate.removed for candidate in second.going] == [True] * _COPIES
    assert (third.total, third.deleted.files) == (0, _COPIES)
    assert _count(database, EngineRow) == 1
    assert _count(database, ManifestRow) == 2, "those of the pinned engine and its checkpoint"
    assert _count(database, BlobRow) == 2
    assert _count(database, RemovalRow) == _COPIES
    # Of a removal, a row of nine columns for each of a batch.
    assert max(statement.parameters for statement in statements) <= 9 * _BATCH


def test_the_number_of_newer_engines_is_counted_across_batches(control: Any, database: Database) -> None:
    _fill(database, _COPIES)
    request = CleanUpRequest(policies=(Policy(keep_last=2),), dry_run=True)
    # Three models of twenty engines each; the first engine is of a fourth.
    assert clean_up(control, request, by=None, batch=_BATCH).total == _COPIES - 3 * 2


def test_an_answer_lists_a_bounded_number_of_candidates(control: Any, database: Database) -> None:
    _fill(database, MAX_GOING + 5)
    result = clean_up(control, CleanUpRequest(policies=_ALL.policies, dry_run=True), by=None)
    assert (len(result.going), result.total) == (MAX_GOING, MAX_GOING + 7), "with the first engine and its checkpoint"


def test_an_engine_whose_platform_cannot_be_read_stays_and_stops_nothing(control: Any, database: Database) -> None:
    unreadable = _fill(database, 3)
    with database.write() as session:
        session.execute(update(EngineRow).where(EngineRow.key == unreadable).values(platform={"sm": []}))
    assert clean_up(control, _ALL, by=None).total == 3
