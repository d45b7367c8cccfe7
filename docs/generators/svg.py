"""Draw boxes and arrows as SVG: small, without scripts, and with the fonts that a reader's machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

Kind = Literal["step", "good", "bad", "waiting", "group", "note"]
Point = tuple[float, float]

_FILLS: dict[Kind, tuple[str, str]] = {
    "step": ("#eaf1fb", "#3b6ea5"),
    "good": ("#e7f5e9", "#3d8b4f"),
    "bad": ("#fbeaea", "#b04a4a"),
    "waiting": ("#fdf5e2", "#b58a2b"),
    "group": ("#fafafa", "#9aa3ad"),
    "note": ("#ffffff", "#c4cad0"),
}
_LINE_HEIGHT = 17


@dataclass(frozen=True)
class Box:
    """A rectangle with lines of text in its middle. Lengths are pixels, (x, y) is the upper left corner."""

    x: float
    y: float
    width: float
    height: float

    def side(self, name: Literal["left", "right", "top", "bottom"], shift: float = 0) -> Point:
        """The middle of a side, moved along it by `shift` pixels."""
        match name:
            case "left":
                return self.x, self.y + self.height / 2 + shift
            case "right":
                return self.x + self.width, self.y + self.height / 2 + shift
            case "top":
                return self.x + self.width / 2 + shift, self.y
            case "bottom":
                return self.x + self.width / 2 + shift, self.y + self.height


class Picture:
    """Elements are drawn in the order in which they are added: groups first, so that boxes lie on them."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._elements: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, *lines: str, kind: Kind = "step") -> Box:
        """Add a box. The first line is bold; a group has its only line at the top."""
        fill, stroke = _FILLS[kind]
        dashes = ' stroke-dasharray="5 4"' if kind == "group" else ""
        self._elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.3"{dashes}/>'
        )
        first = y + 18 if kind == "group" else y + height / 2 - (len(lines) - 1) * _LINE_HEIGHT / 2 + 4.5
        for number, line in enumerate(lines):
            bold = number == 0 and kind != "note"
            self.text(x + width / 2, first + number * _LINE_HEIGHT, line, bold=bold)
        return Box(x, y, width, height)

    def text(self, x: float, y: float, text: str, *, bold: bool = False, anchor: str = "middle") -> None:
        weight = ' font-weight="600"' if bold else ' fill="#3d4852"'
        self._elements.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def arrow(self, *points: Point, label: str = "", label_at: Point | None = None, anchor: str = "middle") -> None:
        """Add a line through the points with a head at its end, and a label, by default above its middle."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._elements.append(f'<polyline points="{path}" class="arrow" marker-end="url(#head)"/>')
        if label:
            (x0, y0), (x1, y1) = points[0], points[-1]
            x, y = label_at or ((x0 + x1) / 2, (y0 + y1) / 2 - 6)
            self.text(x, y, label, anchor=anchor)

    def line(self, *points: Point, color: str = "#9aa3ad", width: float = 1.3, dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._elements.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}"{dashes}/>'
        )

    def svg(self) -> str:
        """The picture, on a white ground: it is readable in a dark theme too."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}" '
            f'width="{self._width}" height="{self._height}" role="img" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13">'
        )
        marker = (
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" fill="#4a5560"/></marker></defs>'
        )
        style = "<style>.arrow { fill: none; stroke: #4a5560; stroke-width: 1.4 }</style>"
        ground = '<rect width="100%" height="100%" rx="8" fill="#ffffff"/>'
        title = f"<title>{escape(self._title)}</title>"
        return "\n".join([head, title, style, marker, ground, *self._elements, "</svg>", ""])
