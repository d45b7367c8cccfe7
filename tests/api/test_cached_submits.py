"""Those who wait for the same look into the catalogue: an error is for all of them, and for nobody after them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.planning.cached_submits import CachedSubmits, Submit
from enginefarm.contract.errors import DatabaseUnavailable
from enginefarm.contract.spec import BuildSpec

_SPEC = BuildSpec.model_validate(
    {"model": "hf:org/name", "toolchain": {"name": "aoti"}, "limits": {"max_input_len": 8, "max_output_len": 8}}
)


class _Catalogue(CachedSubmits):
    """Answers with who asks, unless it is away."""

    def __init__(self) -> None:
        super().__init__(None, None, None, None)  # type: ignore[arg-type]  # neither is asked
        self.away = False
        self.looks: list[list[str | None]] = []

    def _answers(self, submits: Any) -> Any:
        self.looks.append([submit.requested_by for submit in submits])
        if self.away:
            raise DatabaseUnavailable("away")
        return self.looks[-1]


async def _all(submits: CachedSubmits, *names: str) -> list[Any]:
    return await asyncio.gather(*(submits.answer(Submit(_SPEC, name)) for name in names), return_exceptions=True)


def test_each_gets_the_answer_to_what_was_asked() -> None:
    submits = _Catalogue()
    assert asyncio.run(_all(submits, "a", "b", "c")) == ["a", "b", "c"]
    assert submits.looks == [["a", "b", "c"]]


def test_an_outage_is_told_to_all_who_wait_and_to_nobody_later() -> None:
    submits = _Catalogue()

    async def ask() -> None:
        submits.away = True
        assert [type(found) for found in await _all(submits, "a", "b")] == [DatabaseUnavailable] * 2
        submits.away = False
        assert await _all(submits, "c") == ["c"]

    asyncio.run(ask())


@pytest.mark.parametrize("leaves", [0, 1])
def test_who_leaves_takes_no_answer_from_the_others(leaves: int) -> None:
    submits = _Catalogue()

    async def ask() -> None:
        waiting = [asyncio.create_task(submits.answer(Submit(_SPEC, name))) for name in ("a", "b")]
        await asyncio.sleep(0)  # both wait by now
        waiting[leaves].cancel()
        assert str(await asyncio.wait_for(waiting[1 - leaves], timeout=10)) == "ab"[1 - leaves]
        assert await _all(submits, "c") == ["c"]

    asyncio.run(ask())
