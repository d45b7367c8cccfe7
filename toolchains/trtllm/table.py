"""The options of one program of one release, as data: what is accepted, what is default, how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

_JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_PYTHON_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Fact):
    """Where a table was read, and how sure that makes us."""

    repo: str | None
    path: str | None
    commit: str | None
    also: tuple[str, ...] = ()
    sure: Literal["exact", "range", "inferred"]
    how: str


class Option(Fact):
    """One option of a command line. `bool` is a flag without a value; a `None` default is "unset"."""

    flag: str
    type: Literal["int", "float", "str", "bool"]
    default: JsonValue
    about: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str | int, ...] = ()
    nargs: Literal["+", "?"] | None = None
    const: JsonValue = None
    minimum: int | None = None

    @property
    def name(self) -> str:
        return name_of(self.flag)

    @property
    def other_names(self) -> tuple[str, ...]:
        return tuple(name_of(alias) for alias in self.aliases)

    @property
    def value_schema(self) -> dict[str, Any]:
        """JSON Schema of the value. Where the default is unset, null says so."""
        value: dict[str, Any] = {"enum": list(self.choices)} if self.choices else {"type": _JSON_TYPES[self.type]}
        if self.minimum is not None:
            value["minimum"] = self.minimum
        if self.nargs == "+":
            value = {"type": "array", "items": value, "minItems": 1}
        if self.default is None:
            value = {"anyOf": [value, {"type": "null"}]}
        return {"description": self.about, "default": self.default} | value

    @property
    def expected(self) -> str:
        if self.choices:
            one = ", ".join(str(choice) for choice in self.choices)
            words = f"one of {one}" if self.nargs != "+" else f"a list of {one}"
        else:
            words = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false"}[
                self.type
            ]
        if self.minimum is not None:
            words += f" ≥ {self.minimum}"
        return words + (" or null" if self.default is None else "")

    def accepts(self, value: JsonValue) -> bool:
        if value is self.default:
            return True
        if self.nargs == "+":
            return isinstance(value, list) and bool(value) and all(self._accepts_one(item) for item in value)
        return self._accepts_one(value)

    def _accepts_one(self, value: JsonValue) -> bool:
        if not isinstance(value, _PYTHON_TYPES[self.type]) or isinstance(value, bool) is not (self.type == "bool"):
            return False
        if self.choices and value not in self.choices:
            return False
        return self.minimum is None or (isinstance(value, int | float) and value >= self.minimum)

    def argv(self, value: JsonValue) -> tuple[str, ...]:
        """The option as it is written on a command line; nothing if `value` is what the program does anyway."""
        if value == self.default or value is None:
            return ()
        if self.type == "bool":
            return (self.flag,)
        values = value if isinstance(value, list) else [value]
        return (self.flag, *(str(item) for item in values))


class Table(Fact):
    program: str
    what: str
    source: Source
    options: tuple[Option, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Option]:
        return {option.name: option for option in self.options}


def name_of(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")
