"""Cached submits during a database outage, and when a client of the batch disconnects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.planning.cached_submits import CachedSubmits, Submit, ValidSpec
from enginefarm.contract.errors import DatabaseUnavailable
from enginefarm.contract.spec import BuildSpec

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
