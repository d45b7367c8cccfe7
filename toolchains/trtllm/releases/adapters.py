"""LoRA adapters that an engine is built with: their files, proven architectures, and names of modules.

Source: tensorrt_llm/lora_manager.py at 0.15.0 (`data/adapters.json` has the commits).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from toolchains.inputs import references
from toolchains.trtllm.releases.data_file import DataFile, read_data_file

ADAPTERS_DIRECTORY = "lora"  # below an engine, with one numbered folder for each adapter (Engine.save of builder.py)


class AdapterTable(DataFile):
    """What trtllm-build reads of adapters."""

    option: str  # names the adapters
    files: tuple[str, ...]  # of each adapter, that are read
    since: str  # the first release whose code was read
    architectures: tuple[str, ...]  # of checkpoints that use the default names of modules
    modules: Mapping[str, str]  # the builder's name of a module → the adapter's
    joined_modules: tuple[tuple[str, ...], ...]  # the builder adapts all of a group if it adapts one

    @property
    def builder_names(self) -> Mapping[str, str]:
        """The adapter's name of a module → the builder's."""
        return {adapter_name: builder_name for builder_name, adapter_name in self.modules.items()}


@cache
def adapter_table() -> AdapterTable:
    return read_data_file("adapters.json", AdapterTable)


def adapter_model_options() -> dict[str, tuple[str, ...]]:
    """Option that names adapters → the files of each that are read."""
    return {adapter_table().option: adapter_table().files}


def count_adapters(options: Mapping[str, Any]) -> int:
    """How many adapters the options name."""
    option = adapter_table().option
    return len(list(references(option, options.get(option))))


def with_joined_modules(modules: list[str]) -> list[str]:
    """`modules` (the builder's names), then those that the builder adds to them, in its order."""
    result = list(modules)
    for group in adapter_table().joined_modules:
        if set(group) & set(modules):
            result += [name for name in group if name not in modules]
    return result
