"""Adapters (LoRA) that an engine is built with, as data: which files, of which models, and what modules are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from toolchains.inputs import named
from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.releases.option_table import DATA, Fact, Source

DIRECTORY = "lora"  # below an engine: one folder for each adapter, by number


class Adapters(Fact):
    what: str
    source: Source
    option: str
    files: tuple[str, ...]
    since: str
    architectures: tuple[str, ...]
    modules: Mapping[str, str]  # the builder's name of a module → the adapter's
    together: tuple[tuple[str, ...], ...]

    @property
    def places(self) -> Mapping[str, str]:
        """The adapter's name of a module → the builder's."""
        return {theirs: ours for ours, theirs in self.modules.items()}


@cache
def adapters() -> Adapters:
    return Adapters.model_validate_json((DATA / "adapters.json").read_bytes())


def model_options() -> dict[str, tuple[str, ...]]:
    """Option that names adapters → the files that are read of each."""
    return {adapters().option: adapters().files}


def count(options: Mapping[str, Any]) -> int:
    return len(list(named(adapters().option, options.get(adapters().option))))


def of_case(case: Case) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(number, reference, what it says of itself) of each adapter; the last is empty where it was not read."""
    option = adapters().option
    for place, (name, reference) in enumerate(named(option, case.option(option))):
        yield place, reference, case.facts.beside.get(name, {})


def completed(modules: list[str]) -> list[str]:
    """With the modules that the builder adds by itself, in its order."""
    groups = (group for group in adapters().together if set(group) & set(modules))
    return [*modules, *(name for group in groups for name in group if name not in modules)]
