"""Builds share a timing cache if device, versions, precision and builder settings are equal."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.toolchains.trtllm.build_contexts import FACTS, VERSION, platform, spec
from toolchains.toolchain import WarmFile
from toolchains.trtllm import TOOLCHAIN


def warm_file(
    stage: Stage = Stage.BUILD, *, machine: Any = None, version: str = VERSION, **fields: Any
) -> WarmFile | None:
    target = platform(**(machine or {}))
    normal, _ = TOOLCHAIN.normalise(spec(version, **fields), FACTS, target)
    job = Job(stage=stage, toolchain="trtllm", version=version, spec=normal, facts=FACTS, platform=target)
    return TOOLCHAIN.warm_file(job)


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"max_batch_size": 1, "max_input_len": 8, "max_output_len": 8}},
        {"machine": {"driver": "580.1"}},
        {"parallelism": {"tp": 2}},
        {"options": {"gemm_plugin": "disable"}},
    ],
)
def test_builds_with_these_differences_share_a_cache(changes: dict[str, Any]) -> None:
    assert warm_file(**changes) == warm_file()


@pytest.mark.parametrize(
    "changes",
    [
        *({"machine": {name: value}} for name, value in (("gpu", "NVIDIA L4"), ("sm", "89"), ("gpu_memory_gib", 24))),
        *({"machine": {name: value}} for name, value in (("mig", "1g.10gb"), ("ecc", True), ("cuda", "12.9"))),
        {"machine": {"tensorrt": "10.13.3"}},
        {"version": "1.1.0"},
        {"precision": {"dtype": "float16"}},
        {"options": {"strip_plan": True}},
    ],
)
def test_builds_with_these_differences_have_caches_of_their_own(changes: dict[str, Any]) -> None:
    assert warm_file(**changes) != warm_file()


def test_a_conversion_has_no_cache() -> None:
    assert warm_file(Stage.CONVERT) is None
