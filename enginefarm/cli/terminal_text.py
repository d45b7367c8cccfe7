"""Make text of others safe for a terminal: names, messages and logs that a farm, a worker or a compiler wrote.

A terminal obeys characters that it does not show: it moves its cursor over text that was shown, changes colours, titles
and the clipboard, and turns the direction of text around. Whoever writes a log could so hide a line, or show another
one. After `safe_text`, every character of a text is shown, in the order in which it was written, or shown as an escape.
"""

from __future__ import annotations

import re

from enginefarm.contract.portable import is_unsafe

# Colours and cursor movements: ESC [ or the character CSI, parameters, intermediate characters, a final one. They hold
# no text, so they are removed. Other sequences (titles, links, the clipboard) hold text: of those only the control
# characters are replaced, or a sequence without an end would hide what follows.
_CONTROL_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")
_LINE_ENDS = re.compile(r"\r+\n")
_KEPT = frozenset("\n\t")


def safe_text(text: str) -> str:
    r"""Return `text` with line ends and tabs kept, colours removed, and other characters without a shape escaped.

    A lone `\r`, with which a progress bar overwrites itself, becomes a line end: nothing that was written is hidden.
    """
    if text.isascii() and text.isprintable():
        return text
    text = _CONTROL_SEQUENCE.sub("", text)
    text = _LINE_ENDS.sub("\n", text).replace("\r", "\n")
    return "".join(_shown(character) for character in text)


def safe_line(text: object) -> str:
    """Return the text as `safe_text` does, on one line."""
    return " ".join(safe_text(str(text)).split())


def safe_json(document: str) -> str:
    r"""Return a JSON document with the same values, in which unsafe characters of strings are written as `\uXXXX`."""
    if document.isascii() and "\x7f" not in document:
        return document
    return "".join(character if character in _KEPT else _json_shown(character) for character in document)


def _shown(character: str) -> str:
    if character in _KEPT or not is_unsafe(character):
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_shown(character: str) -> str:
    if not is_unsafe(character):
        return character
    # JSON writes a character beyond U+FFFF as two surrogates.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[start : start + 2].hex()}" for start in range(0, len(units), 2))
