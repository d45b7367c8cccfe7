"""JSON values that every JSON reader parses alike and every database stores: no NaN, no huge integer, no NUL."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import AfterValidator, JsonValue
from pydantic_core import PydanticCustomError

# NUL as canonical JSON spells it: \u0000 after an even number of backslashes. PostgreSQL's jsonb refuses it.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

J = TypeVar("J", bound=Any)


def portable(value: J) -> J:
    """Return `value`; refuse NaN, infinities, integers beyond 2^53 - 1, lone surrogates and NUL.

    Raises:
        PydanticCustomError: `not_portable`. Use it as a validator, which reports the field.
    """
    try:
        text = rfc8785.dumps(value)
    # JSON from a caller can be nested more deeply than Python's stack.
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
