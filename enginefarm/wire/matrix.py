"""Build matrices: in a spec with lists, every list is an axis, and every combination of values a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from pydantic import Field, JsonValue

from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.wire.bodies import Body, ProblemDocument, Submitted

MAX_CELLS = 256  # cells of one request; each is planned like a submit of its own
MAX_VALUES = 100_000  # fields of all cells together: each could be a mistake, which is described for its cell


class Cell(Body):
    """One combination. It is accepted or refused on its own."""

    axes: dict[str, JsonValue] = Field(
        description="the value of each list, by its JSON pointer", examples=[{"/limits/max_batch_size": 8}]
    )
    status: int = Field(description="the HTTP status that POST /v1/builds would have answered for this cell alone")
    submitted: Submitted | None = None
    problem: ProblemDocument | None = None


class Matrix(Body):
    """The answer to POST /v1/builds:matrix."""

    cells: list[Cell]


def cells(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, JsonValue], dict[str, Any]]]:
    """Yield (axes, spec) of every cell, the last axis moving fastest. A list inside a list is a value, no axis.

    Raises:
        InvalidSpec: a list is empty, or there are more than MAX_CELLS cells or MAX_VALUES fields.
    """
    axes = dict(_axes(spec, ""))
    problems = []
    for pointer, values in axes.items():
        if not values:
            problems.append(
                Problem(pointer=pointer, code="empty_axis", detail="an empty list makes no cell", expected="a value")
            )
    if problems:
        raise InvalidSpec(problems)
    # Counted before any cell is made: eight lists of a thousand values would fill the memory.
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_CELLS:
        too_many = Problem(
            pointer="", code="too_many_cells", detail=f"the lists make {count} cells", value=count,
            expected=f"≤ {MAX_CELLS}", remedy="send several smaller matrices",
        )  # fmt: skip
        raise InvalidSpec([too_many])
    fields = _fields(spec)
    if fields * count > MAX_VALUES:
        too_large = Problem(
            pointer="", code="too_many_values", detail=f"{count} cells of {fields} fields each", value=fields * count,
            expected=f"≤ {MAX_VALUES} fields in all", remedy="send several smaller matrices",
        )  # fmt: skip
        raise InvalidSpec([too_large])
    for combination in product(*axes.values()):
        cell = dict(zip(axes, combination, strict=True))
        yield cell, _filled(spec, "", cell)


def _axes(section: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, list[JsonValue]]]:
    """Yield (JSON pointer, values) of every list in `section`, which is at `pointer` in the spec."""
    for name, value in section.items():
        field = f"{pointer}/{_escaped(name)}"
        if isinstance(value, list):
            yield field, value
        elif isinstance(value, dict):
            yield from _axes(value, field)


def _fields(section: Mapping[str, Any]) -> int:
    """The fields of one cell, by JSON pointer."""
    return sum(_fields(value) if isinstance(value, dict) else 1 for value in section.values())


def _filled(section: Mapping[str, Any], pointer: str, cell: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return a copy of `section` with the cell's value in place of each list."""
    filled: dict[str, Any] = {}
    for name, value in section.items():
        field = f"{pointer}/{_escaped(name)}"
        if isinstance(value, dict):
            filled[name] = _filled(value, field, cell)
        else:
            filled[name] = cell.get(field, value)
    return filled


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
