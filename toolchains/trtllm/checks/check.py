"""One check of a context: it yields a problem for each rule that is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext

Check: TypeAlias = Callable[[BuildContext], Iterator[Problem]]


def refused_option(context: BuildContext, rule: str, name: str, detail: str, expected: str) -> Problem:
    return Problem(
        pointer=f"/options/{name}", code=rule, detail=detail, value=context.option_value(name), expected=expected
    )


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
