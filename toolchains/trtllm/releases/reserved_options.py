"""Options that callers cannot set under `/options`, and options that later releases removed: what to do instead."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from functools import cache

from pydantic import JsonValue

from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file


class ReservedOption(FrozenModel):
    """An option that a program has and that callers do not set under `/options`."""

    instead: str  # JSON pointer to what to set in its place; '' for nothing
    why: str
    only_with: str | None = None  # reserved only in releases that have this option, which replaces it
    values: Mapping[str, str] = {}  # a value of this option → the value of `only_with` that means the same


class FormerOption(FrozenModel):
    """An option of older releases."""

    instead: str  # JSON pointer to what to set in its place; '' for nothing
    removed_in: str  # the first release without it
    why: str


class _ReservedOptions(DataFile):
    options: Mapping[str, ReservedOption]
    meanings: Mapping[str, Mapping[str, str]]  # option → its value as JSON, `*` for any → the value of `instead`


class _FormerOptions(DataFile):
    options: Mapping[str, FormerOption]


@cache
def reserved_options() -> Mapping[str, ReservedOption]:
    """By name."""
    return read_data_file("reserved_options.json", _ReservedOptions).options


def meaning(name: str, value: JsonValue) -> str | None:
    """What to write for this value of a reserved or former option, in the field that replaces it; None if unknown."""
    meanings = read_data_file("reserved_options.json", _ReservedOptions).meanings.get(name, {})
    written = value if isinstance(value, str) else json.dumps(value)
    return meanings.get(written, meanings.get("*"))


@cache
def former_options() -> Mapping[str, FormerOption]:
    """By name."""
    return read_data_file("former_options.json", _FormerOptions).options


def is_reserved(name: str, program_options: Container[str]) -> bool:
    """
    Args:
        program_options: names of all options of the program that has `name`.
    """
    reserved = reserved_options().get(name)
    if reserved is None:
        return False
    return reserved.only_with is None or reserved.only_with in program_options
