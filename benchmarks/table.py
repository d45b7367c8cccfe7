"""What a benchmark prints: figures of the farm beside the baseline's of the same run, and their ratio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    what: str
    unit: str
    farm: float
    baseline: float | None = None
    aim: str = ""  # what the figure should be, for the reader

    def cells(self) -> tuple[str, ...]:
        if self.baseline is None:
            return self.what, self.unit, _short(self.farm), "", "", self.aim
        return self.what, self.unit, _short(self.farm), _short(self.baseline), f"{self.ratio:.2f}", self.aim

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
        written = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"### {self.title}", "", written[0], rule, *written[1:]])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
