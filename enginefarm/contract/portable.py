"""JSON that means the same to everybody who reads it, and that every database keeps."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import AfterValidator, JsonValue
from pydantic_core import PydanticCustomError

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # as canonical JSON spells it

J = TypeVar("J", bound=Any)


def portable(value: J) -> J:
    """Refuse NaN, infinities, integers beyond 2^53 - 1, lone surrogates and NUL."""
    try:
        text = rfc8785.dumps(value)
    except (ValueError, RecursionError):
        text = None
    if text is None or _NUL.search(text):
        raise PydanticCustomError(
            "not_portable",
            "not JSON that every reader takes",
            {"expected": "finite numbers up to 2^53 - 1, and text without NUL and lone surrogates"},
        )
    return value


PortableValue = Annotated[JsonValue, AfterValidator(portable)]
