"""The OpenAPI document describes every route, and its examples are valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from docs.generators.reference.rest import application, rest_reference
from enginefarm.contract.spec import BuildSpec
from tests.api.published import Published


@pytest.fixture(scope="module")
def document(published_farm: Published) -> dict[str, Any]:
    return dict(httpx.get(f"{published_farm.url}/openapi.json").json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_has_a_description(document: dict[str, Any]) -> None:
    silent = [
        name
        for name, operation in operations(document)
        if name.split()[1].startswith("/v1") and not operation.get("description")
    ]
    assert silent == []


def test_every_refusal_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        if name == "GET /readyz":
            del refusals["503"]  # probes read the state of each part
        if name == "GET /v1/blobs/{digest}":
            del refusals["400"], refusals["416"]  # malformed and impossible ranges, which Starlette refuses as text
        assert refusals
        for status, answer in refusals.items():
            assert list(answer["content"]) == ["application/problem+json"], (name, status)


def test_a_route_documents_the_refusals_of_its_kind(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        expected = {"400", "403", "421"}
        if "security" in operation:
            expected |= {"401", "503"}
        if "{" in name:
            expected.add("404")
        if "requestBody" in operation:
            expected |= {"413", "415", "422"}
        assert expected <= operation["responses"].keys(), name


def test_every_field_of_a_request_is_bounded(document: dict[str, Any]) -> None:
    unbounded: list[str] = []
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            # A path is bounded by the server's limit of a line, and names something that exists or does not.
            if parameter["in"] != "path":
                _find_unbounded(document, parameter["schema"], f"{name} {parameter['name']}", unbounded)
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            _find_unbounded(document, schema, name, unbounded)
    # Their values are checked as a whole by `portable`, and a body has at most 1 MiB.
    checked_as_a_whole = ("/checkpoint_document", "/attestation", "/verification_summary")
    unbounded = [field for field in unbounded if not field.endswith(checked_as_a_whole)]
    # RFC 7232 bounds no ETag. It is compared, and not stored.
    unbounded.remove("GET /v1/builds/{build_id} if-none-match")
    unbounded.remove("POST /v1/builds:matrix")  # a spec with lists, checked as a whole
    assert unbounded == []


def _find_unbounded(document: dict[str, Any], schema: dict[str, Any], field: str, unbounded: list[str]) -> None:
    """Append the fields of `schema` whose text or number has no bound, and the objects that take any property."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for alternative in schema.get("anyOf", ()):
        _find_unbounded(document, alternative, field, unbounded)
    match schema.get("type"):
        case "string":
            if not schema.keys() & {"maxLength", "enum", "const", "format"} and "{" not in schema.get("pattern", ""):
                unbounded.append(field)
        case "integer" | "number":
            if not {"minimum", "maximum"} <= schema.keys():
                unbounded.append(field)
        case "array":
            _find_unbounded(document, schema["items"], f"{field}/items", unbounded)
        case "object":
            if schema.get("additionalProperties") is not False:
                unbounded.append(field)
            for name, value in schema.get("properties", {}).items():
                _find_unbounded(document, value, f"{field}/{name}", unbounded)


def test_the_example_specs_are_valid(document: dict[str, Any]) -> None:
    examples = document["components"]["schemas"]["BuildSpec"]["examples"]
    assert len(examples) >= 2
    for example in examples:
        BuildSpec.parse(example)


def test_the_reference_page_has_every_answer_of_every_route() -> None:
    document = application().openapi()
    page = rest_reference()
    refusals = page.partition("## Refusals")[2].partition("\n## ")[0]
    for name, operation in operations(document):
        method, path = name.split()
        route = page.partition(f"### {method} `{path}`")[2].partition("\n### ")[0]
        assert route, name
        for status in operation["responses"]:
            assert f"| {status} |" in route or f"| {status} |" in refusals, (name, status)
