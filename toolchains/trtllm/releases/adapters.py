"""LoRA adapters that an engine is built with: their files, proven architectures, and names of modules.

Source: tensorrt_llm/lora_manager.py and the models' classes, from 0.9.0 on (`data/adapters.json` has the commits).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from packaging.version import Version

from toolchains.inputs import references
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file

ADAPTERS_DIRECTORY = "lora"  # below an engine, with one numbered folder for each adapter (Engine.save of builder.py)


class AdapterFamily(FrozenModel):
    """Architectures of checkpoints whose adapters name their modules alike."""

    architectures: Mapping[str, str]  # → the first release that is proven to load such adapters
    modules: Mapping[str, tuple[str, ...]]  # the builder's name of a module → the adapter's

    @property
    def adapter_names(self) -> list[str]:
        """What adapters may call their modules, in the builder's order."""
        return [name for names in self.modules.values() for name in names]

    def builder_names(self, adapter_module: str) -> list[str]:
        """The builder's names of the modules that an entry of `target_modules` selects; empty if there is none.

        PEFT selects every module whose path ends with the entry. Paths that start at the model are entries too.
        """
        builder_names = []
        for builder_name, names in self.modules.items():
            if any(_ends_with(name, adapter_module) or _ends_with(adapter_module, name) for name in names):
                builder_names.append(builder_name)
        return builder_names


def _ends_with(path: str, end: str) -> bool:
    """True if the last parts of a dotted path are those of `end`."""
    return path == end or path.endswith(f".{end}")


class AdapterTable(DataFile):
    """What trtllm-build reads of adapters."""

    option: str  # names the adapters
    files: tuple[str, ...]  # of each adapter, that are read
    since: str  # the first release that reads them
    families: tuple[AdapterFamily, ...]
    joined_modules: tuple[tuple[str, ...], ...]  # an engine has all of a group or none

    def family(self, architecture: str, version: str) -> AdapterFamily | None:
        """The family of a checkpoint's architecture; None if this release is not proven to load its adapters."""
        for family in self.families:
            since = family.architectures.get(architecture)
            if since is not None and Version(since) <= Version(version):
                return family
        return None

    def architectures(self, version: str) -> list[str]:
        """The architectures of checkpoints that this release is proven to load adapters for."""
        names = [name for family in self.families for name in family.architectures]
        return [name for name in names if self.family(name, version)]

    def since_of(self, architecture: str) -> str | None:
        """The first release that is proven to load adapters of this architecture; None if none is."""
        for family in self.families:
            if architecture in family.architectures:
                return family.architectures[architecture]
        return None


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
    """`modules` (the builder's names), then the others of their groups, in the builder's order."""
    result = list(modules)
    for group in adapter_table().joined_modules:
        if set(group) & set(modules):
            result += [name for name in group if name not in modules]
    return result
