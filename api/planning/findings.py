"""Findings: the problems of one spec. Every step of planning adds to them, and the planner raises once, at its end.

Notes are collected beside them: what planning chose for the caller, and advice. They refuse nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginefarm.contract.errors import InvalidSpec, ModelUnavailable, Problem


class Findings:
    """The problems in the order in which planning met them. True if there are any."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._problems)

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)

    @property
    def notes(self) -> tuple[Problem, ...]:
        return tuple(self._notes)

    def add(self, *problems: Problem) -> None:
        self._problems.extend(problems)

    def add_notes(self, *notes: Problem) -> None:
        self._notes.extend(notes)

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
            # An error of a model source may consist of a text alone.
            problems = error.problems or (Problem(pointer="", code=error.code, detail=error.detail),)
            for problem in problems:
                if pointer is not None:
                    problem = problem.model_copy(update={"pointer": pointer})
                self.add(problem)
