"""The table that a benchmark prints: figures of the farm, of a baseline in the same run, and their ratio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    name: str
    unit: str
    farm: float
    baseline: float | None = None
    aim: str = ""  # what the figure should be

    def cells(self) -> tuple[str, ...]:
        if self.baseline is None:
            return self.name, self.unit, _short(self.farm), "", "", self.aim
        return self.name, self.unit, _short(self.farm), _short(self.baseline), f"{self.ratio:.2f}", self.aim

    @property
    def ratio(self) -> float:
        assert self.baseline is not None
        return self.farm / self.baseline


@dataclass(frozen=True)
class Table:
    title: str
    baseline: str  # what the farm is compared with
    lines: tuple[Line, ...]

    def __str__(self) -> str:
        """Markdown, so that it can go into docs/measurements.md as it is."""
        rows = [("", "unit", "farm", self.baseline, "ratio", "aim"), *(line.cells() for line in self.lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        header, *body = (_row(row, widths) for row in rows)
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"### {self.title}", "", header, rule, *body])


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join(padded) + " |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
