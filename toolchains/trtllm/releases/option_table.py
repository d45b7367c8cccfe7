"""The options of one program of one release, as data: what is accepted, what is default, how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

DATA = Path(__file__).parent.parent / "data"

_JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_DTYPES = frozenset({"float16", "float32", "bfloat16"})
_PYTHON_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(FrozenModel):
    """Where a table was read, and how sure that makes us.

    `exact`: at the release itself; `near`: at a snapshot within weeks of it; `range`: at a commit of which only a span
    of versions is known; `inferred`: concluded from the tables around it.
    """

    repo: str | None
    path: str | None
    commit: str | None
    also: tuple[str, ...] = ()
    sure: Literal["exact", "near", "range", "inferred"]
    how: str
    between: tuple[str, ...] = ()  # the two tables around an inferred one
    by_history: tuple[str, ...] = ()  # options that only one of them has, and that the history of the file proves
    without: tuple[str, ...] = ()  # options of the snapshot that the release may not have any more


class Option(FrozenModel):
    """One option of a command line. `bool` is a flag without a value; a `None` default is "unset".

    `about` and `minimum` are the farm's own (`data/glossary.json`); all else is what the program's parser says.
    """

    flag: str
    type: Literal["int", "float", "str", "bool"]
    default: JsonValue
    about: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str | int, ...] = ()
    nargs: Literal["+", "?", 2] | None = None
    const: JsonValue = None
    required: bool = False
    note: str | None = None
    minimum: int | None = None
    default_sure: bool = True  # False: the tables around this release differ, so the value is always written
    auto_is_ours: bool = False  # the program does not know "auto"

    @property
    def name(self) -> str:
        return option_name(self.flag)

    @property
    def alias_names(self) -> tuple[str, ...]:
        """Aliases that are words; one like -sq is no name."""
        return tuple(option_name(alias) for alias in self.aliases if alias.startswith("--"))

    @property
    def for_callers(self) -> Option:
        """Releases before 0.11 want a plugin's dtype spelt out: for callers `auto` is the model's dtype in any release.

        Those releases take float16 where nothing is said, whatever the model is in.
        """
        if not set(self.choices) >= _DTYPES or "auto" in self.choices:
            return self
        default = "auto" if self.default == "float16" else self.default
        return self.model_copy(
            update={"choices": ("auto", *self.choices), "default": default, "default_sure": False, "auto_is_ours": True}
        )

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
        about = f"{self.about} ({self.note})" if self.note else self.about
        return {"description": about, "default": self.default} | value

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

    def argv(self, value: JsonValue, dtype: str | None = None) -> tuple[str, ...]:
        """The option as it is written on a command line; nothing if `value` is what the program does anyway.

        `dtype` is the model's, for an `auto` that the program does not know.
        """
        if self.auto_is_ours and value == "auto":
            value = dtype
        if value is None or (value == self.default and self.default_sure):
            return ()
        if self.type == "bool":
            return (self.flag,)
        values = value if isinstance(value, list) else [value]
        return (self.flag, *(str(item) for item in values))


class OptionTable(FrozenModel):
    program: str
    source: Source
    options: tuple[Option, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Option]:
        return {option.name: option for option in self.options}


@cache
def load_table(file: str) -> OptionTable:
    """The table with the farm's own words and bounds filled in."""
    content = json.loads((DATA / "tables" / file).read_bytes())
    words = _glossary()[content["program"]]
    options = [words[option_name(option["flag"])] | option for option in content["options"]]
    return OptionTable.model_validate_json(json.dumps(content | {"options": options}))


@cache
def _glossary() -> dict[str, dict[str, dict[str, JsonValue]]]:
    """Program → option → what it does, and the farm's bound if there is one."""
    programs: dict[str, dict[str, dict[str, JsonValue]]]
    programs = json.loads((DATA / "glossary.json").read_bytes())["programs"]
    return programs


def option_name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")
