"""The command-line options of one program of one release: accepted values, defaults, and how they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import JsonValue

from toolchains.trtllm.releases.data_file import DATA, FrozenModel, Source

_JSON_TYPES = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}
_PYTHON_TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_TYPE_WORDS = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false"}
_DTYPES = frozenset({"float16", "float32", "bfloat16"})


class Option(FrozenModel):
    """One option of a command line. `bool` is a flag without a value; a `None` default is "unset".

    `about` and `minimum` are the farm's own (`data/glossary.json`); all else is what the program's parser states.
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
    auto_is_ours: bool = False  # the program does not know "auto": the farm writes the model's dtype in its place

    @property
    def name(self) -> str:
        """The key under `/options` of a spec, as argparse would name the attribute."""
        return option_name(self.flag)

    @property
    def alias_names(self) -> tuple[str, ...]:
        """The long aliases. A short one such as -sq is not accepted as a key under `/options`."""
        return tuple(option_name(alias) for alias in self.aliases if alias.startswith("--"))

    @property
    def for_callers(self) -> Option:
        """The option as callers see it: a plugin's dtype may be `auto`, the model's dtype, in every release.

        Releases before 0.11 have no `auto` and take float16 if the option is left out, whatever the model's dtype is.
        """
        takes_dtypes = set(self.choices) >= _DTYPES
        if not takes_dtypes or "auto" in self.choices:
            return self
        default = self.default
        if default == "float16":
            default = "auto"
        return self.model_copy(
            update={"choices": ("auto", *self.choices), "default": default, "default_sure": False, "auto_is_ours": True}
        )

    @property
    def value_schema(self) -> dict[str, Any]:
        """JSON Schema of the value, with null if the default is unset."""
        value: dict[str, Any] = {"type": _JSON_TYPES[self.type]}
        if self.choices:
            value = {"enum": list(self.choices)}
        if self.minimum is not None:
            value["minimum"] = self.minimum
        if self.nargs == "+":
            value = {"type": "array", "items": value, "minItems": 1}
        if self.default is None:
            value = {"anyOf": [value, {"type": "null"}]}
        about = self.about
        if self.note:
            about += f" ({self.note})"
        return {"description": about, "default": self.default} | value

    @property
    def expected(self) -> str:
        """The accepted values in words, for the text of an error."""
        choices = ", ".join(str(choice) for choice in self.choices)
        if not self.choices:
            text = _TYPE_WORDS[self.type]
        elif self.nargs == "+":
            text = f"a list of {choices}"
        else:
            text = f"one of {choices}"
        if self.minimum is not None:
            text += f" ≥ {self.minimum}"
        if self.default is None:
            text += " or null"
        return text

    def accepts(self, value: JsonValue) -> bool:
        """True for the default, and for what the program's parser and the farm's minimum accept."""
        # Identity: 1 == True and 0 == False in Python, and a number is no flag.
        if value is self.default:
            return True
        if self.nargs != "+":
            return self._accepts_item(value)
        # argparse refuses the flag of a list without an item after it.
        if not isinstance(value, list) or not value:
            return False
        return all(self._accepts_item(item) for item in value)

    def _accepts_item(self, value: JsonValue) -> bool:
        # bool is a subclass of int, but `true` is no whole number.
        if not isinstance(value, _PYTHON_TYPES[self.type]) or isinstance(value, bool) is not (self.type == "bool"):
            return False
        if self.choices and value not in self.choices:
            return False
        return self.minimum is None or (isinstance(value, int | float) and value >= self.minimum)

    def argv(self, value: JsonValue, dtype: str | None = None) -> tuple[str, ...]:
        """The option on a command line; empty if the program does the same without it.

        Args:
            dtype: the model's, for an `auto` that the program does not know.
        """
        if self.auto_is_ours and value == "auto":
            value = dtype
        if value is None or (value == self.default and self.default_sure):
            return ()
        if self.type == "bool":
            return (self.flag,)
        if isinstance(value, list):
            return (self.flag, *map(str, value))
        return (self.flag, str(value))


class OptionTable(FrozenModel):
    """Every option of one program, in one release or in several that have the same."""

    program: str
    source: Source
    options: tuple[Option, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Option]:
        return {option.name: option for option in self.options}


@cache
def load_table(file: str) -> OptionTable:
    """Read a file of `data/tables`, with descriptions and minimums from `data/glossary.json`.

    Raises:
        KeyError: the glossary does not describe an option of the table.
    """
    content = json.loads((DATA / "tables" / file).read_bytes())
    glossary = _glossary()[content["program"]]
    # The table goes last: where both state a field, the program's parser is right.
    options = [glossary[option_name(option["flag"])] | option for option in content["options"]]
    return OptionTable.model_validate_json(json.dumps(content | {"options": options}))


@cache
def _glossary() -> dict[str, dict[str, dict[str, JsonValue]]]:
    """Program → option → what it does, and the farm's minimum if there is one."""
    programs: dict[str, dict[str, dict[str, JsonValue]]]
    programs = json.loads((DATA / "glossary.json").read_bytes())["programs"]
    return programs


def option_name(flag: str) -> str:
    """`--max-batch-size` and `--max_batch_size` → `max_batch_size`: releases differ in how they write a flag."""
    return flag.lstrip("-").replace("-", "_")
