"""Options that a caller does not write under `/options`, and those that other releases had: what to do instead."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cache

from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source


class ReservedOption(FrozenModel):
    """An option that exists, but that a caller does not write under `/options`."""

    instead: str  # a JSON pointer, or '' for nothing
    why: str
    only_with: str | None = None  # only in releases that have this option, which replaces it


class FormerOption(FrozenModel):
    """An option of an older release."""

    instead: str
    removed_in: str
    why: str


class _ReservedOptions(FrozenModel):
    description: str
    source: Source
    options: Mapping[str, ReservedOption]


class _FormerOptions(FrozenModel):
    description: str
    source: Source
    options: Mapping[str, FormerOption]


@cache
def reserved_options() -> Mapping[str, ReservedOption]:
    return _ReservedOptions.model_validate_json((DATA / "reserved_options.json").read_bytes()).options


@cache
def former_options() -> Mapping[str, FormerOption]:
    return _FormerOptions.model_validate_json((DATA / "former_options.json").read_bytes()).options


def is_reserved(name: str, known: Container[str]) -> bool:
    """`known`: the options of the program that has `name`."""
    hint = reserved_options().get(name)
    return hint is not None and (hint.only_with is None or hint.only_with in known)
