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

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Name, unit, farm, baseline, ratio, aim; without a baseline its cell and the ratio's are empty."""
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
        rows = [("", "unit", "farm", self.baseline, "ratio", "aim"), *map(Line.cells, self.lines)]
        # Padded, so that it reads well on a terminal, too.
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        texts = []
        for cells in rows:
            padded = map(str.ljust, cells, widths)
            texts.append("| " + " | ".join(padded) + " |")
        dashes = ["-" * (width + 2) for width in widths]
        rule = "|" + "|".join(dashes) + "|"
        return "\n".join([f"### {self.title}", "", texts[0], rule, *texts[1:]])


def _short(value: float) -> str:
    # Three digits at most: the noise of a shared machine is larger than the fourth.
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
