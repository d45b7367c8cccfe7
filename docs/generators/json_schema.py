"""Describe JSON Schemas in Markdown: one table of fields for an object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(_each_once(type_of(alternative, link_to=link_to) for alternative in alternatives))
    words = [_plain_type(schema, link_to), *_bounds(schema)]
    return ", ".join(words)


def _plain_type(schema: Schema, link_to: str) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {type_of(schema.get('items', {}), link_to=link_to)}"
        case "object":
            values = schema.get("additionalProperties")
            by_pattern = schema.get("patternProperties", {})
            if by_pattern:
                values = next(iter(by_pattern.values()))
            return f"object of {type_of(values, link_to=link_to)}" if isinstance(values, dict) else "object"
        case None:
            return "any JSON value"
        case "string" if "format" in schema:
            return f"string ({schema['format']})"
        case kind:
            return str(kind)


def _bounds(schema: Schema) -> Iterator[str]:
    for word, phrase in _BOUNDS.items():
        if word in schema:
            yield phrase.format(schema[word])
    for pattern in schema.get("patternProperties", ()):
        yield f"names match `{pattern}`"


def _each_once(words: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(words))


def default_of(field: Schema) -> str:
    """The default as JSON; a dash if the field has none."""
    if "default" not in field:
        return "–"
    default = field["default"]
    # An object's default is the defaults of its fields, which its own table has.
    return "see there" if isinstance(default, dict) and default else f"`{json.dumps(default, ensure_ascii=False)}`"


def _meaning(field: Schema) -> str:
    meaning = field.get("description", "")
    for alternative in field.get("anyOf", ()):
        meaning = meaning or alternative.get("description", "")
    examples = field.get("examples", ())
    if examples:
        written = ", ".join(f"`{json.dumps(example, ensure_ascii=False)}`" for example in examples)
        meaning = f"{meaning}; for example {written}" if meaning else f"for example {written}"
    return " ".join(meaning.split())
