"""Find the toolchains: the packages of this room, then what third parties register by entry point."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

import toolchains
from toolchains.toolchain import Toolchain

GROUP = "enginefarm.toolchains"


@cache
def all_toolchains() -> Mapping[str, Toolchain]:
    """Every toolchain by name. Two of one name are refused: a key would be ambiguous.

    Raises:
        RuntimeError: a name is taken twice.
    """
    found: dict[str, Toolchain] = {}
    ours = (
        import_module(f"toolchains.{info.name}").TOOLCHAIN
        for info in pkgutil.iter_modules(toolchains.__path__)
        if info.ispkg
    )
    theirs = (point.load() for point in entry_points(group=GROUP))
    for toolchain in (*ours, *theirs):
        if toolchain.name in found:
            raise RuntimeError(f"two toolchains are named {toolchain.name!r}: rename or remove one")
        found[toolchain.name] = toolchain
    return found
