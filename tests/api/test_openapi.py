"""The OpenAPI document describes every route, and its examples are valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

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


def test_every_route_documents_its_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if not name.split()[1].startswith("/v1"):
            continue  # registry clients and probes have forms of their own
        for status in ("401", "404", "503"):
            assert "application/problem+json" in operation["responses"][status]["content"], (name, status)


def test_the_example_specs_are_valid(document: dict[str, Any]) -> None:
    examples = document["components"]["schemas"]["BuildSpec"]["examples"]
    assert len(examples) >= 2
    for example in examples:
        BuildSpec.parse(example)
