"""The reference of a spec, from the JSON Schema of `BuildSpec`."""

from __future__ import annotations

import json

from docs.generators.json_schema import field_table
from docs.generators.markdown import code_block, sentence
from enginefarm.contract.spec import DTYPE_ALIASES, BuildSpec


def spec_reference() -> str:
    """Markdown: the spec's own fields, then a section for each object inside it, then the examples."""
    schema = BuildSpec.model_json_schema()
    aliases_by_dtype: dict[str, list[str]] = {}
    for alias, dtype in DTYPE_ALIASES.items():
        aliases_by_dtype.setdefault(dtype, []).append(f"`{alias}`")
    aliases = "; ".join(f"{', '.join(names)} for `{dtype}`" for dtype, names in aliases_by_dtype.items())

    sections = [
        field_table(schema, link_to="spec-"),
        f"Other names of a dtype are accepted and replaced before the key is made: {aliases}.",
    ]
    for name, definition in schema["$defs"].items():
        # Definitions without fields (any JSON value) are named where they are used.
        if "properties" in definition:
            sections.append(f"(spec-{name.lower()})=\n## {name}")
            if definition.get("description"):
                sections.append(sentence(definition["description"]))
            sections.append(field_table(definition, link_to="spec-"))
    sections.append("## Examples")
    sections += [code_block(json.dumps(example, indent=2), "json") for example in schema["examples"]]
    return "\n\n".join(sections)
