"""What a check is, and the forms of problem that several checks report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext

# Yields a problem for each broken rule. Its code is the rule's id; `find_problems` drops rules that are not in force.
Check: TypeAlias = Callable[[BuildContext], Iterator[Problem]]


def refused_option(context: BuildContext, rule: str, name: str, detail: str, expected: str) -> Problem:
    """The problem of an option whose value is possible by itself, but not in this build."""
    value = context.option_value(name)
    return Problem(pointer=f"/options/{name}", code=rule, detail=detail, value=value, expected=expected)


def divisors(number: int) -> list[int]:
    """In ascending order."""
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def comma_separated(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def either(values: Iterable[object]) -> str:
    """Alternatives in words: `1`, `1 or 2`, `1, 2 or 4`."""
    *others, last = [str(value) for value in values]
    if not others:
        return last
    return f"{', '.join(others)} or {last}"
