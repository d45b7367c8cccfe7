"""Find the toolchains: the packages below `toolchains/`, then those that third parties register by entry point."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

import toolchains
from toolchains.toolchain import Toolchain

GROUP = "enginefarm.toolchains"


@cache
def all_toolchains() -> Mapping[str, Toolchain]:
    """Every toolchain by name.

    Raises:
        ValueError: two toolchains have one name, so a key that contains the name would be ambiguous; or that of a third
            party cannot be loaded.
    """
    # Only packages are toolchains; the modules of this folder are what toolchains share.
    packages = [module.name for module in pkgutil.iter_modules(toolchains.__path__) if module.ispkg]
    candidates = [import_module(f"toolchains.{package}").TOOLCHAIN for package in packages]
    candidates += [_loaded(entry_point) for entry_point in entry_points(group=GROUP)]
    by_name: dict[str, Toolchain] = {}
    for toolchain in candidates:
        if toolchain.name in by_name:
            raise ValueError(f"two toolchains are named {toolchain.name!r}: rename or remove one")
        by_name[toolchain.name] = toolchain
    return by_name


def _loaded(entry_point: EntryPoint) -> Toolchain:
    try:
        toolchain: Toolchain = entry_point.load()
        toolchain.name  # noqa: B018  # whatever else an entry point may be has none
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the toolchain {entry_point.name!r} ({entry_point.value}) cannot be loaded, {reason}; "
            "mend its package or uninstall it"
        ) from error
    return toolchain
