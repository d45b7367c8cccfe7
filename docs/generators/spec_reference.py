"""The reference of a spec, from the JSON Schema of `BuildSpec`."""

from __future__ import annotations

import json
from typing import Any

from docs.generators.json_schema import field_table
from docs.generators.markdown import code_block, sentence
from enginefarm.contract.spec import DTYPE_ALIASES, BuildSpec


def spec_reference() -> str:
    """Markdown: the spec's own fields, then a section for each object inside it, then the examples."""
    schema = BuildSpec.model_json_schema()
    sections = [field_table(schema, link_to="spec-"), _aliases()]
    for name, definition in schema["$defs"].items():
        if "properties" in definition:
            sections += [f"(spec-{name.lower()})=\n## {name}", *_described(definition)]
    sections.append("## Examples")
    for example in schema["examples"]:
        sections.append(code_block(json.dumps(example, indent=2), "json"))
    return "\n\n".join(sections)


def _described(definition: dict[str, Any]) -> list[str]:
    description = sentence(definition.get("description", ""))
    fields = field_table(definition, link_to="spec-")
    return [description, fields] if description else [fields]


def _aliases() -> str:
    by_dtype: dict[str, list[str]] = {}
    for alias, dtype in DTYPE_ALIASES.items():
        by_dtype.setdefault(dtype, []).append(f"`{alias}`")
    words = "; ".join(f"{', '.join(aliases)} for `{dtype}`" for dtype, aliases in by_dtype.items())
    return f"Other names of a dtype are accepted and replaced before the key is made: {words}."
