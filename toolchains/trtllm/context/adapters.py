"""Adapters (LoRA) that an engine is built with, as data: which files, of which models, and what modules are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from toolchains.inputs import references
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source

ADAPTERS_DIRECTORY = "lora"  # below an engine: one folder for each adapter, by number


class Adapters(FrozenModel):
    description: str
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
def adapter_table() -> Adapters:
    return Adapters.model_validate_json((DATA / "adapters.json").read_bytes())


def adapter_model_options() -> dict[str, tuple[str, ...]]:
    """Option that names adapters → the files that are read of each."""
    return {adapter_table().option: adapter_table().files}


def count_adapters(options: Mapping[str, Any]) -> int:
    return len(list(references(adapter_table().option, options.get(adapter_table().option))))


def requested_adapters(context: BuildContext) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(number, reference, what it says of itself) of each adapter; the last is empty where it was not read."""
    option = adapter_table().option
    for place, (name, reference) in enumerate(references(option, context.option_value(option))):
        yield place, reference, context.facts.beside.get(name, {})


def with_joined_modules(modules: list[str]) -> list[str]:
    """With the modules that the builder adds by itself, in its order."""
    groups = (group for group in adapter_table().together if set(group) & set(modules))
    return [*modules, *(name for group in groups for name in group if name not in modules)]
