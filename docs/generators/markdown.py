"""Small pieces of Markdown that the generators share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in GitHub's form. Cells are escaped: a `|` in one would start a new column."""
    lines = [_row(head), "|" + "---|" * len(head), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
    return "| " + " | ".join(escaped) + " |"


def escaped(text: str) -> str:
    """The text on one line, so that Markdown reads none of its signs but backquotes, which mark code."""
    pieces = " ".join(text.split()).split("`")
    # Every second piece is code, where a backslash would be shown.
    for number in range(0, len(pieces), 2):
        pieces[number] = pieces[number].replace("<", "\\<").replace("*", "\\*").replace("[", "\\[")
    return "`".join(pieces)


def code_block(text: str, language: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def sentence(text: str) -> str:
    """The text with a capital at its start and a full stop at its end. Code at the start stays as it is."""
    text = " ".join(text.split())
    if not text:
        return ""
    start = text if text.startswith("`") else text[0].upper() + text[1:]
    return start if start.endswith((".", "?", "!", ":")) else start + "."
