"""Bad requests are refused with every problem named, and nothing is queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from models.catalogue.rows import ActionRow, BuildRow
from tests.api.published import Published

PROBLEM = "application/problem+json"
NO_MODEL, PICKLED = "file:{models}/none", "file:{models}/pickled"


def rows(published_farm: Published) -> tuple[int, ...]:
    with published_farm.database.read() as session:
        return tuple(session.scalar(select(func.count()).select_from(kind)) or 0 for kind in (BuildRow, ActionRow))


def post(published_farm: Published, body: object, content_type: str = "application/json") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"{published_farm.url}/v1/builds", content=content, headers={"Content-Type": content_type}, timeout=60
    )


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"]
    assert problem["detail"]
    return problem


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"modell": 1}, {"/modell": "extra_forbidden"}),
        ({"model": 3}, {"/model": "string_type"}),
        ({"model": NO_MODEL}, {"/model": "model_not_found"}),
        ({"model": PICKLED}, {"/model": "model_only_pickle"}),
        ({"model": "file:/models/a\0b"}, {"/model": "value_error"}),
        ({"model": "file:/models/\ud800"}, {"/model": "string_unicode"}),
        ({"toolchain": {"name": "gcc"}}, {"/toolchain/name": "unknown_toolchain"}),
        ({"toolchain": {"name": "aoti", "version": "0.0.1"}}, {"/toolchain/version": "unknown_version"}),
        ({"limits": {"max_batch_size": -1}}, {"/limits/max_batch_size": "greater_than_equal"}),
        ({"limits": {"max_batch_size": 10**30}}, {"/limits/max_batch_size": "less_than_equal"}),
        ({"limits": {"max_batch_size": float("nan")}}, {"/limits/max_batch_size": "int_type"}),
        ({"limits": {"max_input_len": 8, "max_seq_len": 8}}, {"/limits": "lengths_disagree"}),
        ({"limits": {"max_seq_len": 100_000}}, {"/limits/max_seq_len": "beyond_positions"}),
        ({"options": {"nope": 1}}, {"/options/nope": "unknown_option"}),
        ({"options": {"x": float("nan")}}, {"/options/x": "not_portable"}),
        ({"options": {"x": [10**400]}}, {"/options/x": "not_portable"}),
        ({"options": {"x": {"y": "a\0b"}}}, {"/options/x": "not_portable"}),
        ({"options": {"x": "\ud800"}}, {"/options/x": "not_portable"}),
        ({"platform": {"gpu": "a\0b", "sm": "90"}}, {"/platform/gpu": "string_pattern_mismatch"}),
        (
            {"modell": 1, "model": None, "limits": {"max_batch_size": "4"}, "parallelism": {"tp": 0}},
            {
                "/modell": "extra_forbidden", "/model": "string_type", "/limits/max_batch_size": "int_type",
                "/parallelism/tp": "greater_than_equal",
            },
        ),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_spec_is_refused_with_the_pointer_of_each_problem(
    published_farm: Published, spec: dict[str, Any], models: Path, change: dict[str, Any], pointers: dict[str, str]
) -> None:
    if isinstance(change.get("model"), str):
        change = change | {"model": change["model"].format(models=models)}
    rows_before = rows(published_farm)
    problem = refused(post(published_farm, spec | change), 422)
    assert problem["code"] == "invalid_spec"
    assert {finding["pointer"]: finding["code"] for finding in problem["errors"]} == pointers
    for finding in problem["errors"]:
        assert finding["detail"]
        assert finding.get("expected") or finding.get("remedy") or finding["code"] in {"value_error", "string_unicode"}
    assert rows(published_farm) == rows_before


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{not", "application/json", 400),
        (b"\xff\xfe\x00", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": 1' + b"0" * 5000 + b"}", "application/json", 400),
        (b"", "application/json", 422),
        (b"null", "application/json", 422),
        (b"[]", "application/json", 422),
        (b'{"\\ud800": 1}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"model=llama", "application/x-www-form-urlencoded", 415),
        (b" " * (2 << 20), "application/json", 413),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_is_no_spec_is_refused_and_nothing_is_written(
    published_farm: Published, body: bytes, content_type: str, status: int
) -> None:
    rows_before = rows(published_farm)
    refused(post(published_farm, body, content_type), status)
    assert rows(published_farm) == rows_before


def test_a_missing_body_is_reported_as_a_missing_body(published_farm: Published) -> None:
    [problem] = refused(post(published_farm, b""), 422)["errors"]
    assert (problem["detail"], problem["expected"]) == ("the request has no body", "a JSON object")


def test_a_chunked_body_is_refused_at_the_size_limit(published_farm: Published) -> None:
    pieces = (b" " * (1 << 18) for _ in range(8))
    answer = httpx.post(f"{published_farm.url}/v1/builds", content=pieces, headers={"Content-Type": "application/json"})
    assert "larger than 1048576 bytes" in refused(answer, 413)["detail"]


def test_a_matrix_is_parsed_as_strictly_as_a_spec(published_farm: Published, spec: dict[str, Any]) -> None:
    rows_before = rows(published_farm)
    body = json.dumps(spec | {"limits": {"max_batch_size": [1, float("nan")]}})
    answer = httpx.post(
        f"{published_farm.url}/v1/builds:matrix", content=body, headers={"Content-Type": "application/json"}
    )
    assert refused(answer, 422)["errors"][0]["code"] == "not_portable"
    assert rows(published_farm) == rows_before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/builds/nope", 404),
        ("/v1/builds/nope/logs", 404),
        ("/v1/builds/nope/events", 404),
        ("/v1/builds/" + "a" * 3000, 404),
        ("/v1/builds/%00", 400),
        ("/v1/builds/%FF", 404),
        ("/v1/builds?model=%00", 400),
        ("/v1/builds?state=odd", 400),
        ("/v1/builds?limit=0", 400),
        ("/v1/builds?limit=many", 400),
        ("/v1/builds?cursor=zzz", 400),
        ("/v1/builds?cursor=LTE", 400),
        ("/v1/builds?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", 400),
        ("/v1/engines?cursor=LTU", 400),
        ("/v1/builds/nope?wait=nan", 400),
        ("/v1/builds/nope?wait=1e9", 400),
        ("/v1/engines/nope", 400),
        ("/v1/engines/" + "0" * 64, 404),
        ("/v1/nope", 404),
    ],
)
def test_a_bad_path_or_query_is_refused_with_its_status(published_farm: Published, path: str, status: int) -> None:
    refused(httpx.get(published_farm.url + path), status)
