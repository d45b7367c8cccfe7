"""Values that mean the same everywhere: JSON that every reader and database takes, and names that every system shows.

A name is refused if two people could read it differently, or if it could control the terminal that prints it. Whoever
walks a directory calls `portable_path` with each file's path relative to the directory.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import AfterValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

# NUL as canonical JSON spells it: \u0000 after an even number of backslashes. PostgreSQL's jsonb refuses it.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

J = TypeVar("J", bound=Any)


def portable(value: J) -> J:
    """Return `value`; refuse NaN, infinities, numbers beyond 2^53 - 1, lone surrogates and NUL.

    Raises:
        PydanticCustomError: `not_portable`. Use it as a validator, which reports the field.
    """
    try:
        text = rfc8785.dumps(value)
    # JSON from a caller can be nested more deeply than Python's stack.
    except (ValueError, RecursionError):
        text = None
    if text is None or _NUL.search(text) or not _is_exact(value):
        raise PydanticCustomError(
            "not_portable",
            "not JSON that every reader takes",
            {"expected": "finite numbers up to 2^53 - 1, and text without NUL and lone surrogates"},
        )
    return value


def _is_exact(value: Any) -> bool:
    """False if a number is beyond 2^53 - 1: 1e308 is an integer to a JSON Schema, and none that RFC 8785 can write."""
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return not isinstance(value, float) or abs(value) <= 2**53 - 1


PortableValue = Annotated[JsonValue, AfterValidator(portable)]


_LONGEST_NAME = 255  # bytes of one component of a path: the limit of ext4, XFS and most other file systems
_LONGEST_PATH = 4096  # bytes; PATH_MAX of Linux
_LONGEST_PATH_TEXT = 1024  # characters
# Control, format and surrogate characters, and the line and paragraph separator. Format characters contain the bidi
# overrides, which reverse how a name is shown, and characters without width, which make two names look alike.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Words of Persian and Indic languages contain these two format characters.
_JOINERS = frozenset("\u200c\u200d")


def is_unsafe(character: str) -> bool:
    """Return True for a character that could control a terminal, or hide or reorder text."""
    return unicodedata.category(character) in _UNSAFE_CATEGORIES and character not in _JOINERS


def portable_name(name: str) -> str:
    """Return `name`, the name of a file, a worker, an API key or a tag.

    Raises:
        ValueError: it is empty, longer than 255 bytes in UTF-8, has a control, bidi or invisible character or a byte
            that is no UTF-8 (a lone surrogate), or ends in a dot or a blank. The text is one line and quotes the name
            without such characters.
    """
    defect = _name_defect(name)
    if defect:
        raise ValueError(f"the name {_quoted(name)} {defect}")
    return name


def portable_path(path: str) -> str:
    """Return `path`, the path of a file relative to the directory of an engine, a checkpoint or a model.

    Pass names as `os.scandir` gives them: bytes that are no UTF-8 are lone surrogates there, and are refused.

    Raises:
        ValueError: it is absolute, leads out of the directory, is longer than 1,024 characters, or has a component
            that `portable_name` refuses. The text is one line and quotes the path without control characters.
    """
    defect = _path_defect(path)
    if defect:
        raise ValueError(
            f"{_quoted(path)} is not a plain relative path: it {defect}; expected names joined by '/', with no '..', "
            "'.' or leading '/'"
        )
    return path


PortableName = Annotated[str, AfterValidator(portable_name)]
PortablePath = Annotated[
    str, AfterValidator(portable_path), Field(json_schema_extra={"minLength": 1, "maxLength": _LONGEST_PATH_TEXT})
]


def _path_defect(path: str) -> str | None:
    if len(path) > _LONGEST_PATH_TEXT or len(path.encode(errors="surrogatepass")) > _LONGEST_PATH:
        return f"is longer than {_LONGEST_PATH_TEXT} characters or {_LONGEST_PATH} bytes"
    if "\\" in path:
        return "has a backslash, which separates folders on Windows"
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return "is empty, is absolute, or has '..', '.' or '//'"
        defect = _name_defect(part)
        if defect:
            return defect
    return None


def _name_defect(name: str) -> str | None:
    if not name:
        return "is empty"
    for character in name:
        if is_unsafe(character):
            return f"has the character U+{ord(character):04X}, which is not text that every system shows alike"
    if len(name.encode()) > _LONGEST_NAME:
        return f"has a component of more than {_LONGEST_NAME} bytes"
    # Windows and SMB drop them, so that two names become one.
    if name[-1] in ". ":
        return "has a component that ends in a dot or a blank"
    return None


def _quoted(text: str) -> str:
    """Return `text` in quotes, cut, in one line, and without any character that is not ASCII text."""
    if len(text) > 80:
        text = f"{text[:80]}…"
    return repr(text)
