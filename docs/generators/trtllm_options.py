"""The options of TensorRT-LLM in every release, from the option tables of the toolchain."""

from __future__ import annotations

from docs.generators.json_schema import default_of, type_of
from docs.generators.markdown import table
from toolchains.registry import all_toolchains


def trtllm_options() -> str:
    """Markdown: one row for each option, as the newest release that has it describes it."""
    toolchain = all_toolchains()["trtllm"]
    versions = [release.version for release in reversed(toolchain.releases())]  # oldest first
    fields_by_version = {version: toolchain.options_schema(version)["properties"] for version in versions}
    names = sorted({name for fields in fields_by_version.values() for name in fields})
    rows = []
    for name in names:
        having = [version for version in versions if name in fields_by_version[version]]
        if len(having) == len(versions):
            releases = "all"
        elif having[-1] == versions[-1]:
            releases = f"{having[0]} on"
        elif len(having) == 1:
            releases = having[0]
        else:
            releases = f"{having[0]} to {having[-1]}"
        field = fields_by_version[having[-1]][name]
        stage = "convert" if name in toolchain.convert_options else "build"
        rows.append((f"`{name}`", stage, type_of(field), default_of(field), releases, field.get("description", "")))
    return table(("option", "stage", "type", "default", "releases", "meaning"), rows)
