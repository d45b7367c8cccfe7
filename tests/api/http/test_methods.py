"""The methods of a path: a 405 names them in Allow, OPTIONS lists them, and HEAD answers as GET without the body."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from models.security import api_keys as access
from tests.api.published import Published, published
from tests.models.requests import new_request, submit_request

METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with published(tmp_path_factory.mktemp("farm"), guarded=True) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: Published) -> Iterator[httpx.Client]:
    with farm.database.write() as session:
        key = access.create(session, "admin", [access.Scope.ADMIN])
    with httpx.Client(base_url=farm.url, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


def paths(client: httpx.Client, farm: Published) -> dict[str, set[str]]:
    """The methods of every path of the OpenAPI document and of the registry, with a value for each parameter."""
    document: dict[str, Any] = client.get("/openapi.json").json()
    methods = {"/v2/": {"GET"}, f"/v2/aoti/org/tiny-llama/manifests/{farm.key}": {"GET"}}
    for path, operations in document["paths"].items():
        path = path.replace("{key}", farm.key).replace("{path}", "config.json")
        path = path.replace("{build_id}", "b").replace("{name}", "w1").replace("{digest}", "sha256:" + "0" * 64)
        methods[path] = {method.upper() for method in operations}
        # The other method of this path serves signed links, which no client writes by hand.
        if path.startswith("/v1/blobs/"):
            methods[path].add("GET")
    return methods


def test_every_path_lists_its_methods_in_allow(client: httpx.Client, farm: Published) -> None:
    for path, methods in paths(client, farm).items():
        expected = methods | {"OPTIONS"}
        if "GET" in methods:
            expected.add("HEAD")
        for method in METHODS:
            if method in expected and method != "OPTIONS":
                continue
            answer = client.request(method, path)
            assert answer.status_code == (204 if method == "OPTIONS" else 405), (method, path)
            assert set(answer.headers["allow"].split(", ")) == expected, (method, path)


def test_an_unknown_path_is_not_found_with_every_method(client: httpx.Client) -> None:
    for method in METHODS:
        answer = client.request(method, "/v1/nope")
        assert answer.status_code == 404, method
        assert "allow" not in answer.headers


def test_head_answers_as_get_without_the_body(client: httpx.Client, farm: Published) -> None:
    for path in ("/healthz", "/v1/engines", f"/v1/engines/{farm.key}", f"/v1/engines/{farm.key}/files/config.json"):
        get, head = client.get(path), client.head(path)
        assert head.status_code == get.status_code
        assert head.headers.get("content-length") == get.headers.get("content-length")
        assert head.content == b""
    assert client.head("/v1/engines/nope").status_code == 400
    assert httpx.head(f"{farm.url}/v1/engines").status_code == 401


def test_head_of_a_followed_log_does_not_wait_for_the_build(client: httpx.Client, farm: Published) -> None:
    build = submit_request(farm.database, new_request("hf:org/open")).id
    for stream in ("logs?follow=true", "events"):
        # The connection serves the next request, which it could not if the stream went on.
        assert client.head(f"/v1/builds/{build}/{stream}", timeout=5).status_code == 200
        assert client.get("/healthz", timeout=5).status_code == 200


def test_the_registry_answers_errors_in_its_own_form(client: httpx.Client) -> None:
    for method, path, status, code in (
        ("GET", "/v2/x/blobs/sha256:short", 400, "NAME_INVALID"),
        ("GET", "/v2/x/tags/list?n=-1", 400, "NAME_INVALID"),
        ("GET", "/v2/x/tags/list?n=" + "9" * 30, 400, "NAME_INVALID"),
        ("GET", "/v2/x/manifests/%00", 400, "NAME_INVALID"),
        ("GET", "/v2/x/manifests/" + "a" * 7000, 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/x/y/z", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", "/v2/x/manifests/latest", 405, "UNSUPPORTED"),
        ("POST", "/v2/x/blobs/uploads", 405, "UNSUPPORTED"),
    ):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code), path
