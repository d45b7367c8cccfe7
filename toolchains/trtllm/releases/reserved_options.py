"""Options that a caller does not write under `/options`, and those that other releases had: what to do instead."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cache

from toolchains.trtllm.releases.option_table import DATA, Fact, Source


class Reserved(Fact):
    """An option that exists, but that a caller does not write under `/options`."""

    instead: str  # a JSON pointer, or '' for nothing
    why: str
    where: str | None = None  # only in releases that have this option, which replaces it


class Former(Fact):
    """An option of an older release."""

    instead: str
    gone_in: str
    why: str


class _ReservedOptions(Fact):
    what: str
    source: Source
    options: Mapping[str, Reserved]


class _FormerOptions(Fact):
    what: str
    source: Source
    options: Mapping[str, Former]


@cache
def reserved() -> Mapping[str, Reserved]:
    return _ReservedOptions.model_validate_json((DATA / "reserved_options.json").read_bytes()).options


@cache
def former() -> Mapping[str, Former]:
    return _FormerOptions.model_validate_json((DATA / "former_options.json").read_bytes()).options


def is_reserved(name: str, known: Container[str]) -> bool:
    """`known`: the options of the program that has `name`."""
    hint = reserved().get(name)
    return hint is not None and (hint.where is None or hint.where in known)
