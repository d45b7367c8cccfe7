"""Describe JSON Schemas in Markdown: one table of fields for an object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from docs.generators.markdown import table

Schema = Mapping[str, Any]

_BOUNDS = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} entries",
    "pattern": "matches `{}`",
}


def field_table(schema: Schema, *, link_to: str = "") -> str:
    """The fields of an object: name, type with its bounds, default, meaning.

    Args:
        schema: of type object, with `properties`.
        link_to: what the anchors of other objects on the page start with. Empty: objects are named without a link.
    """
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema["properties"].items():
        default = "required" if name in required else default_of(field)
        rows.append((f"`{name}`", type_of(field, link_to=link_to), default, _meaning(field)))
    return table(("field", "type", "default", "meaning"), rows)


def type_of(schema: Schema, *, link_to: str = "") -> str:
    """The type in words, with every bound that the schema has."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name == "JsonValue":
            return "any JSON value"
        return f"[{name}](#{link_to}{name.lower()})" if link_to else name
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives:
        words = [type_of(alternative, link_to=link_to) for alternative in alternatives]
        # Two alternatives that differ in what is not shown have the same words: name them once.
        return " or ".join(dict.fromkeys(words))

    words = [_plain_type(schema, link_to)]
    for bound, phrase in _BOUNDS.items():
        if bound in schema:
            words.append(phrase.format(schema[bound]))
    for pattern in schema.get("patternProperties", ()):
        words.append(f"names match `{pattern}`")
    return ", ".join(words)


def _plain_type(schema: Schema, link_to: str) -> str:
    """The type without its bounds; what a list or an object holds is described in turn."""
    match schema.get("type"):
        case "array":
            return f"list of {type_of(schema.get('items', {}), link_to=link_to)}"
        case "object":
            # An object whose names are checked describes its values under the pattern.
            by_pattern = list(schema.get("patternProperties", {}).values())
            values = by_pattern[0] if by_pattern else schema.get("additionalProperties")
            return f"object of {type_of(values, link_to=link_to)}" if isinstance(values, dict) else "object"
        case None:
            return "any JSON value"
        case "string" if "format" in schema:
            return f"string ({schema['format']})"
        case kind:
            return str(kind)


def default_of(field: Schema) -> str:
    """The default as JSON; a dash if the field has none."""
    if "default" not in field:
        return "–"
    default = field["default"]
    # An object's default is the defaults of its fields, which its own table has.
    return "see there" if isinstance(default, dict) and default else f"`{json.dumps(default, ensure_ascii=False)}`"


def _meaning(field: Schema) -> str:
    """The description, of the field itself or of one of its alternatives, with the examples."""
    meaning = field.get("description", "")
    for alternative in field.get("anyOf", ()):
        meaning = meaning or alternative.get("description", "")
    examples = field.get("examples", ())
    if examples:
        written = ", ".join(f"`{json.dumps(example, ensure_ascii=False)}`" for example in examples)
        meaning = f"{meaning}; for example {written}" if meaning else f"for example {written}"
    return " ".join(meaning.split())
