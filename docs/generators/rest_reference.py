"""The reference of the REST API, from its OpenAPI document."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.app import create_app
from docs.generators.json_schema import field_table, type_of
from docs.generators.markdown import sentence, table
from migrations.upgrade import set_up
from models.settings import Settings

Operation = dict[str, Any]


def rest_reference() -> str:
    """Markdown: a section for each route, then one for each body."""
    document = openapi_document()
    sections: list[str] = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            # The registry's routes answer HEAD as they answer GET.
            if method != "head":
                sections += _route(method.upper(), path, operation)
    sections += ["(rest-bodies)=\n## Bodies", "Fields that a newer farm adds must be ignored by clients."]
    for name, schema in sorted(document["components"]["schemas"].items()):
        sections += _body(name, schema)
    return "\n\n".join(sections)


def openapi_document() -> dict[str, Any]:
    """What `GET /openapi.json` answers, from an API on an empty catalogue that lives as long as this call."""
    # The API warns that it has no key, which is of no interest here.
    logging.getLogger("api").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_environment(
            {
                "ENGINEFARM_DATABASE_URL": f"sqlite:///{folder}/catalogue.db",
                "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",  # nothing connects before the first request
                "ENGINEFARM_STORE_URL": Path(folder, "store").as_uri(),
            }
        )
        set_up(settings)
        return create_app(settings).openapi()


def _route(method: str, path: str, operation: Operation) -> Iterator[str]:
    yield f"## {method} `{path}`"
    yield from str(operation.get("description", operation.get("summary", ""))).split("\n\n")
    rows = []
    for parameter in operation.get("parameters", ()):
        kind = type_of(parameter["schema"], link_to="rest-")
        required = "yes" if parameter.get("required") else "no"
        rows.append((f"`{parameter['name']}`", parameter["in"], kind, required, parameter.get("description", "")))
    if rows:
        yield table(("parameter", "in", "type", "required", "meaning"), rows)
    if body := operation.get("requestBody"):
        yield f"Body: {_content(body['content'])}"
    yield table(("status", "body", "meaning"), _responses(operation))


def _responses(operation: Operation) -> Iterator[tuple[str, str, str]]:
    for status, response in operation["responses"].items():
        yield status, _content(response.get("content", {})), sentence(response.get("description", ""))


def _content(content: dict[str, Any]) -> str:
    """Media types with the schemas of what they carry."""
    described = []
    for media_type, media in content.items():
        schema = media.get("schema")
        described.append(f"{type_of(schema, link_to='rest-')} (`{media_type}`)" if schema else f"`{media_type}`")
    # The description of a problem stands under `application/json` as well, which no answer of the farm has.
    if len(described) > 1:
        described = [text for text in described if "`application/json`" not in text]
    return ", ".join(described) or "none"


def _body(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"(rest-{name.lower()})=\n### {name}"
    if schema.get("description"):
        yield sentence(schema["description"])
    if "properties" in schema:
        yield field_table(schema, link_to="rest-")
    else:
        yield f"Type: {type_of(schema, link_to='rest-')}"
