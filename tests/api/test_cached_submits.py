"""Cached submits during a database outage, and when a client of the batch disconnects; how long plans are valid."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from api.planning.cached_submits import CachedSubmits, Submit, ValidSpec
from api.planning.fleet_view import FleetView
from enginefarm.contract.errors import DatabaseUnavailable
from enginefarm.contract.spec import BuildSpec
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import WorkerRow
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker

_SPEC = ValidSpec(
    BuildSpec.model_validate(
        {"model": "hf:org/name", "toolchain": {"name": "aoti"}, "limits": {"max_input_len": 8, "max_output_len": 8}}
    )
)


class _Catalogue(CachedSubmits):
    """Answers each submit with the name of its API key, or raises an outage."""

    def __init__(self) -> None:
        super().__init__(None, None, None, None)  # type: ignore[arg-type]  # `_answers` below uses none of them
        self.is_down = False
        self.defect: BaseException | None = None
        self.batches: list[list[str | None]] = []

    def _answers(self, submits: Any) -> Any:
        self.batches.append([submit.requested_by for submit in submits])
        if self.defect is not None:
            raise self.defect
        if self.is_down:
            raise DatabaseUnavailable("away")
        return self.batches[-1]


async def _all(submits: CachedSubmits, *names: str) -> list[Any]:
    return await asyncio.gather(*(submits.answer(Submit(_SPEC, name)) for name in names), return_exceptions=True)


def test_each_submit_of_a_batch_gets_its_own_answer() -> None:
    submits = _Catalogue()
    assert asyncio.run(_all(submits, "a", "b", "c")) == ["a", "b", "c"]
    assert submits.batches == [["a", "b", "c"]]


def test_an_outage_fails_every_waiting_submit_and_no_later_one() -> None:
    submits = _Catalogue()

    async def scenario() -> None:
        submits.is_down = True
        assert [type(answer) for answer in await _all(submits, "a", "b")] == [DatabaseUnavailable] * 2
        submits.is_down = False
        assert await _all(submits, "c") == ["c"]

    asyncio.run(scenario())


@pytest.mark.parametrize("defect", [ZeroDivisionError(), StopIteration(), SystemExit(0)], ids=repr)
def test_a_defect_leaves_no_submit_without_an_answer(defect: BaseException) -> None:
    submits = _Catalogue()

    async def scenario() -> None:
        submits.defect = defect
        answers = await asyncio.wait_for(_all(submits, "a", "b"), timeout=10)
        assert all(isinstance(answer, BaseException) for answer in answers)
        submits.defect = None
        assert await _all(submits, "c") == ["c"]

    asyncio.run(scenario())


def test_submits_are_answered_with_an_error_when_no_thread_can_be_used() -> None:
    submits = _Catalogue()
    submits.close()
    answers = asyncio.run(_all(submits, "a", "b"))
    assert [type(answer) for answer in answers] == [RuntimeError] * 2


@pytest.mark.parametrize("disconnected", [0, 1])
def test_a_disconnected_client_does_not_disturb_the_other_answers(disconnected: int) -> None:
    submits = _Catalogue()

    async def scenario() -> None:
        waiting = [asyncio.create_task(submits.answer(Submit(_SPEC, name))) for name in ("a", "b")]
        await asyncio.sleep(0)  # both submits are in the queue now
        waiting[disconnected].cancel()
        assert str(await asyncio.wait_for(waiting[1 - disconnected], timeout=10)) == "ab"[1 - disconnected]
        assert await _all(submits, "c") == ["c"]

    asyncio.run(scenario())


def test_the_fleet_that_plans_are_made_for_changes_with_its_workers_and_not_with_each_report(tmp_path: Path) -> None:
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    add_worker(database)
    seconds = iter(range(0, 1000, 2))  # older than the cache keeps, at each look
    view = FleetView(database, clock=lambda: float(next(seconds)))
    before = view.present_workers()
    with database.write() as session:
        session.execute(update(WorkerRow).values(last_seen_at=now(1)))
    assert view.present_workers() is before
    with database.write() as session:
        session.execute(update(WorkerRow).values(queues=["another"]))
    changed = view.present_workers()
    assert [worker.queues for worker in changed] == [["another"]]
    database.close()
