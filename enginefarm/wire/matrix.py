"""Many specs in one: every list in a spec is an axis, and every combination a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from pydantic import Field, JsonValue

from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.wire.bodies import Body, ProblemDocument, Submitted

MAX_CELLS = 256


class Cell(Body):
    """One combination: either accepted or refused, whatever became of the others."""

    axes: dict[str, JsonValue] = Field(
        description="the value of each list, by its JSON pointer", examples=[{"/limits/max_batch_size": 8}]
    )
    status: int = Field(description="what POST /v1/builds would have answered for this cell alone")
    submitted: Submitted | None = None
    problem: ProblemDocument | None = None


class Matrix(Body):
    cells: list[Cell]


def cells(spec: Mapping[str, Any]) -> Iterator[tuple[dict[str, JsonValue], dict[str, Any]]]:
    """(axes, spec) of every cell, the last axis moving fastest. A list inside a list is a value, no axis.

    Raises:
        InvalidSpec: a list is empty, or there are more than MAX_CELLS cells.
    """
    axes = dict(_axes(spec, ""))
    if empty := [pointer for pointer, values in axes.items() if not values]:
        raise InvalidSpec(
            [
                Problem(pointer=pointer, code="empty_axis", detail="an empty list makes no cell", expected="a value")
                for pointer in empty
            ]
        )
    count = math.prod(len(values) for values in axes.values())
    if count > MAX_CELLS:
        raise InvalidSpec([_too_many(count)])
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        yield cell, _filled(spec, "", cell)


def _too_many(count: int) -> Problem:
    return Problem(
        pointer="", code="too_many_cells", detail=f"the lists make {count} cells", value=count,
        expected=f"≤ {MAX_CELLS}", remedy="send several smaller matrices",
    )  # fmt: skip


def _axes(part: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, list[JsonValue]]]:
    for name, value in part.items():
        below = f"{pointer}/{_escaped(name)}"
        if isinstance(value, list):
            yield below, value
        elif isinstance(value, dict):
            yield from _axes(value, below)


def _filled(part: Mapping[str, Any], pointer: str, cell: Mapping[str, JsonValue]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for name, value in part.items():
        below = f"{pointer}/{_escaped(name)}"
        filled[name] = cell.get(below, value)
        if isinstance(value, dict):
            filled[name] = _filled(value, below, cell)
    return filled


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
