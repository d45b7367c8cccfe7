"""A partial platform is completed from the live workers if they are of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from enginefarm.contract.host import Fingerprint, Host
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Capability
from models.fleet.registration import register
from tests.api.published import Published

HOST = Host(name="box", cpu="some", cores=2, memory_gib=8)
MACHINES = {
    "new": Platform(arch="x86_64", cpu_isa="x86-64-v4"),
    "arm": Platform(arch="aarch64", cpu_isa="aarch64"),
}


@pytest.fixture(scope="module", autouse=True)
def fleet(published_farm: Published) -> Sequence[str]:
    """Three kinds of live worker with the one that made the published engine."""
    can = [Capability(toolchain="aoti", version="2.13.0", stages=[Stage.CONVERT, Stage.BUILD])]
    with published_farm.database.write() as session:
        for name, platform in MACHINES.items():
            register(session, name, name, Fingerprint(platform=platform, host=HOST), can, [])
    return list(MACHINES)


def submit(published_farm: Published, spec: dict[str, Any], platform: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{published_farm.url}/v1/builds", json=spec | {"platform": platform}, timeout=60)


@pytest.mark.parametrize(
    ("platform_fields", "candidates"), [({}, ["v3", "v4", "aarch64"]), ({"arch": "x86_64"}, ["v3", "v4"])], ids=str
)
def test_a_platform_that_matches_several_kinds_is_refused_with_the_candidates(
    published_farm: Published, spec: dict[str, Any], platform_fields: dict[str, str], candidates: list[str]
) -> None:
    refused = submit(published_farm, spec, platform_fields)
    assert refused.status_code == 422
    [problem] = refused.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/platform", "platform_ambiguous")
    assert f"{len(candidates)} kinds of live worker" in problem["detail"]
    listed = problem["expected"].split("; ")
    assert len(listed) == len(candidates)
    assert all(any(f"{name}}}" in kind for kind in listed) for name in candidates)


def test_a_partial_platform_that_matches_one_kind_is_completed(published_farm: Published, spec: dict[str, Any]) -> None:
    accepted = submit(published_farm, spec, {"arch": "aarch64"})
    assert accepted.status_code == 202, accepted.text
    build = httpx.get(f"{published_farm.url}/v1/builds/{accepted.json()['id']}").json()
    assert build["spec"]["platform"]["cpu_isa"] == "aarch64"


def test_a_partial_platform_that_no_worker_has_is_refused_with_the_missing_fields(
    published_farm: Published, spec: dict[str, Any]
) -> None:
    refused = submit(published_farm, spec, {"gpu": "NVIDIA H100 80GB HBM3"})
    assert refused.status_code == 422
    [problem] = refused.json()["errors"]
    assert (problem["pointer"], problem["code"]) == ("/platform", "platform_unknown")
    assert "name one of the candidates" in problem["remedy"]


def test_a_partial_platform_is_refused_with_what_no_such_gpu_can_do(
    published_farm: Published, spec: dict[str, Any]
) -> None:
    wrong = {"toolchain": {"name": "trtllm", "version": "0.16.0"}, "precision": {"dtype": "float16", "kv_cache": "fp8"},
             "options": {"tokens_per_block": 48}}  # fmt: skip
    refused = submit(published_farm, spec | wrong, {"gpu": "NVIDIA A100-SXM4-80GB", "sm": "80"})
    problems = {problem["code"]: problem for problem in refused.json()["errors"]}
    assert {"platform_unknown", "fp8_kv_sm", "block_power"} <= problems.keys()
    assert "no live worker has trtllm 0.16.0" in problems["platform_unknown"]["detail"]
    assert "candidates" not in problems["platform_unknown"]["remedy"]


def test_a_series_in_place_of_a_version_is_refused_with_its_newest_version(
    published_farm: Published, spec: dict[str, Any]
) -> None:
    refused = submit(published_farm, spec | {"toolchain": {"name": "trtllm", "version": "0.18"}}, {})
    problems = {problem["pointer"]: problem for problem in refused.json()["errors"]}
    assert problems["/toolchain/version"]["remedy"].startswith("write trtllm@0.18.2")
