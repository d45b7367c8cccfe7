"""Bounds for what callers write: JSON that is not too deep, and types for fields without a narrower type.

PostgreSQL refuses NUL in text and jsonb, its integers have 64 bits, and UTF-8 has no lone surrogates (which Pydantic
refuses in every string). A test walks the OpenAPI document: each field of a request must have a bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

MAX_DEPTH = 64  # levels of nested arrays and objects; specs and configs of models have fewer than ten
MAX_COUNT = 2**53 - 1  # larger integers are not exact in JSON readers that use doubles


def _as_integer(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_UNSTORABLE = re.compile("[\\0\ud800-\udfff]")

WITHOUT_NUL = r"^[^\x00]*$"
Text = Annotated[str, StringConstraints(max_length=1024, pattern=WITHOUT_NUL)]
# Strict: `false` would be read as 0. JSON Schema counts 8.0 among the integers, and some languages write numbers so.
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT), BeforeValidator(_as_integer)]
# A hundred years: later times would overflow. Strict: `false` would be read as 0, which keeps nothing.
Days = Annotated[float, Field(strict=True, ge=0, le=36_500, allow_inf_nan=False)]


def parse_json(content: bytes) -> Any:
    """Parse JSON that somebody else wrote: UTF-8, at most MAX_DEPTH levels deep.

    Numbers are not bounded here: `1e400` is read as infinity, and NaN is accepted. The types that the values are
    validated by refuse them, and name the field.

    Raises:
        json.JSONDecodeError: it is no JSON, or nested more deeply. `msg` says what is wrong.
    """
    try:
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError(f"no UTF-8 ({error.reason})", "", error.start) from error
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # Python's own bound of the digits of an integer
        raise json.JSONDecodeError("an integer has too many digits", "", 0) from error
    # Counted first, because most documents have fewer brackets than levels are allowed.
    if text.count("[") + text.count("{") > MAX_DEPTH and len(list(_levels(value))) > MAX_DEPTH:
        raise _too_deep()
    return value


def is_plain_text(value: Any) -> bool:
    """False if a string of this parsed JSON has a NUL or a lone surrogate."""
    for level in _levels(value):
        for container in level:
            texts = [item for item in container if isinstance(item, str)]
            if isinstance(container, dict):
                texts += [item for item in container.values() if isinstance(item, str)]
            if any(_UNSTORABLE.search(text) for text in texts):
                return False
    return True


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield the containers of each level, by iteration: the caller's stack may be deep already. Ends when too deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return
        yield level
        items: list[Any] = []
        for container in level:
            items.extend(container.values() if isinstance(container, dict) else container)
        level = items


def _too_deep() -> json.JSONDecodeError:
    return json.JSONDecodeError(f"nested more than {MAX_DEPTH} levels deep", "", 0)
