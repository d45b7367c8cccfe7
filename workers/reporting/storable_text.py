"""Texts that a program chose and that the catalogue stores: progress messages, and details of a failure."""

from __future__ import annotations

from enginefarm.contract.portable import is_unsafe

_LONGEST = 2000  # characters


def storable(text: str, longest: int = _LONGEST) -> str:
    """Return `text` in a form that every database stores, shortened to `longest` characters.

    PostgreSQL refuses NUL in a text, and UTF-8 has no lone surrogates, which stand for bytes that are not UTF-8. Other
    control characters could lead a terminal astray.
    """
    shortened = text if len(text) <= longest else text[: longest - 1] + "…"
    characters = []
    for character in shortened:
        if character != "\n" and is_unsafe(character):
            character = "\ufffd"
        characters.append(character)
    return "".join(characters)
