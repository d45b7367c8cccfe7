"""The reference of the REST API, from its OpenAPI document and from the scopes that its routes require."""

from __future__ import annotations

import logging
import pkgutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from fastapi import FastAPI

import api.routes
from api import auth
from api.app import create_app
from api.http.openapi import PROBLEMS
from docs.generators.json_schema import field_table, type_of
from docs.generators.markdown import sentence, table
from migrations.upgrade import set_up
from models.settings import Settings

Operation = dict[str, Any]

# Chapters, by the first part of a path after its version.
_CHAPTERS = {
    "builds": "Builds",
    "engines": "Engines",
    "signing-keys": "Engines",
    "revocations": "Engines",
    "gc": "Retention",
    "removals": "Retention",
    "blobs": "Import from another farm",
    "workers": "Fleet",
    "toolchains": "Fleet",
    "healthz": "Health",
    "readyz": "Health",
}
_SCOPES = {"read": auth.Reader, "submit": auth.Submitter, "admin": auth.Administrator}


def rest_reference() -> str:
    """Markdown: what refusals mean, a chapter for each group of routes, then the bodies.

    Raises:
        KeyError: a route belongs to no chapter.
    """
    document, scopes = application().openapi(), _scopes()
    common = _common_responses()
    chapters: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        # `builds` of `/v1/builds:explain`
        resource = path.removeprefix("/v1").lstrip("/").partition("/")[0].partition(":")[0]
        chapter = chapters.setdefault(_CHAPTERS[resource], [])
        for method, operation in methods.items():
            chapter += _route(method.upper(), path, operation, scopes.get((method.upper(), path)), common)
    sections = ["## Refusals", table(("status", "meaning"), common.items())]
    for chapter_title, routes in chapters.items():
        sections += [f"## {chapter_title}", *routes]
    sections += ["## Bodies", "Clients must ignore fields that they do not know: a newer farm may add some."]
    for name, schema in sorted(document["components"]["schemas"].items()):
        sections += _body(name, schema)
    return "\n\n".join(sections)


def application() -> FastAPI:
    """The API on an empty catalogue. It describes itself, but cannot serve: the catalogue is gone when this returns."""
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
        return create_app(settings)


def _scopes() -> dict[tuple[str, str], str]:
    """The scope that each (method, path) requires; none for routes that need no API key."""
    by_dependency = {get_args(annotation)[1].dependency: scope for scope, annotation in _SCOPES.items()}
    scopes = {}
    for module in pkgutil.iter_modules(api.routes.__path__, "api.routes."):
        for route in import_module(module.name).router.routes:
            for dependency in route.dependant.dependencies:
                if dependency.call in by_dependency:
                    for method in route.methods:
                        # OpenAPI writes a path without the converters of its parameters.
                        scopes[method, route.path_format] = by_dependency[dependency.call]
    return scopes


def _common_responses() -> dict[str, str]:
    """Status and meaning of the refusals that follow from the kind of a route: with a key, with a body, with a name."""
    return {str(status): sentence(meaning) for status, meaning in PROBLEMS.items()}


def _route(method: str, path: str, operation: Operation, scope: str | None, common: dict[str, str]) -> Iterator[str]:
    yield f"### {method} `{path}`"
    description = str(operation.get("description", operation.get("summary", "")))
    yield from (" ".join(paragraph.split()) for paragraph in description.split("\n\n"))
    yield f"Scope: `{scope}`." if scope else "Needs no API key."
    rows = []
    for parameter in operation.get("parameters", ()):
        kind = type_of(parameter["schema"], link_to="rest-")
        required = "yes" if parameter.get("required") else "no"
        rows.append((f"`{parameter['name']}`", parameter["in"], kind, required, parameter.get("description", "")))
    if rows:
        yield table(("parameter", "in", "type", "required", "meaning"), rows)
    if body := operation.get("requestBody"):
        yield f"Body: {_content(body['content'])}"
    responses = []
    for status, response in sorted(operation["responses"].items()):
        meaning = sentence(response.get("description", "")).replace("Successful Response", "Success")
        # The refusals that most routes share stand once at the top of the page.
        if common.get(status) != meaning:
            responses.append((status, _content(response.get("content", {})), meaning))
    yield table(("status", "body", "meaning"), responses)


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
