"""The options of TensorRT-LLM in every release, from the option tables of the toolchain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from docs.generators.json_schema import default_of, type_of
from docs.generators.markdown import table
from toolchains.registry import all_toolchains


def trtllm_options() -> str:
    """Markdown: one row for each option, as the newest release that has it describes it."""
    toolchain = all_toolchains()["trtllm"]
    versions = [release.version for release in reversed(toolchain.releases())]
    fields_by_version = {version: toolchain.options_schema(version)["properties"] for version in versions}
    names = sorted({name for fields in fields_by_version.values() for name in fields})
    rows = []
    for name in names:
        having = [version for version in versions if name in fields_by_version[version]]
        newest = fields_by_version[having[-1]][name]
        stage = "convert" if name in toolchain.convert_options else "build"
        rows.append(
            (f"`{name}`", stage, type_of(newest), default_of(newest), _releases(having, versions), _text(newest))
        )
    return table(("option", "stage", "type", "default", "releases", "meaning"), rows)


def _releases(having: Sequence[str], versions: Sequence[str]) -> str:
    """The releases that have an option, from the oldest to the newest; both sequences are in that order."""
    if len(having) == len(versions):
        return "all"
    if having[-1] == versions[-1]:
        return f"{having[0]} on"
    return having[0] if len(having) == 1 else f"{having[0]} to {having[-1]}"


def _text(field: Mapping[str, Any]) -> str:
    return " ".join(str(field.get("description", "")).split())
