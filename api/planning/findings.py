"""Findings: what is wrong with one spec. Every step of planning adds to them, and the planner's edge raises once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginefarm.contract.errors import InvalidSpec, ModelUnavailable, Problem


class Findings:
    """Problems in the order in which the steps of planning met them. True if there are any."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    def add(self, *problems: Problem) -> None:
        self._problems.extend(problems)

    @contextmanager
    def collect(self, pointer: str | None = None) -> Iterator[None]:
        """An InvalidSpec or a ModelUnavailable ends the block inside, and its problems are added.

        Args:
            pointer: JSON pointer for these problems: a model source does not know where in the spec its reference is.
                None leaves them as they are.
        """
        try:
            yield
        except (InvalidSpec, ModelUnavailable) as error:
            problems = error.problems or (Problem(pointer="", code=error.code, detail=error.detail),)
            for problem in problems:
                self.add(problem if pointer is None else problem.model_copy(update={"pointer": pointer}))
