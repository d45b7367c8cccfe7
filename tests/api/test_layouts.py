"""Which engines have weights that are laid out for one SM, imported ones too."""

from __future__ import annotations

from typing import Any

import pytest

from api.engines.layouts import laid_out_for_sm
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import ImportedWork, Job, ToolchainVersion, Work
from tests.toolchains.trtllm.build_contexts import FACTS, H100, VERSION, spec

DATA = "file:/data/news"


def precision(quantization: str | None, calibration: str | None = None) -> dict[str, Any]:
    return {"precision": {"dtype": "float16", "quantization": quantization}, "calibration": calibration}


def imported(toolchain: str = "trtllm", version: str = VERSION) -> dict[str, Any]:
    return ImportedWork(job=ToolchainVersion(toolchain=toolchain, version=version)).stored()


@pytest.mark.parametrize(
    ("quantization", "expected"), [("int8_wo", True), ("int4_wo", True), ("fp8", False), (None, False)]
)
def test_an_engine_that_was_built_here(quantization: str | None, expected: bool) -> None:
    planned = spec(**precision(quantization, DATA if quantization == "fp8" else None))
    job = Job(stage=Stage.BUILD, toolchain="trtllm", version=VERSION, spec=planned, facts=FACTS, platform=H100)
    assert laid_out_for_sm(Work(job=job).stored(), None) is expected


@pytest.mark.parametrize(
    ("quantization", "calibration", "expected"),
    [
        ("int8_wo", None, True),
        ("int4_gptq", None, True),
        ("int4_awq", None, True),
        ("int4_awq", DATA, False),
        ("fp8", DATA, False),
        (None, None, False),
    ],
)
def test_an_imported_engine_is_judged_by_its_precision(
    quantization: str | None, calibration: str | None, expected: bool
) -> None:
    engine_spec = spec(**precision(quantization, calibration)).model_dump(mode="json")
    assert laid_out_for_sm(imported(), engine_spec) is expected


@pytest.mark.parametrize(
    ("work", "engine_spec", "warning"),
    [
        (imported("unknown"), {}, None),
        (imported(version="99.0"), spec(**precision("int8_wo")).model_dump(mode="json"), "does not know TensorRT-LLM"),
        (imported(), {"precision": "of a later release"}, "was imported from another farm"),
        (imported(), None, None),
    ],
    ids=["no such toolchain", "no such release", "no such spec", "a checkpoint"],
)
def test_what_cannot_be_judged_is_left_out_with_a_line_in_the_log(
    work: dict[str, Any], engine_spec: dict[str, Any] | None, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert laid_out_for_sm(work, engine_spec) is False
    assert (warning is None) == (not caplog.messages)
    assert warning is None or warning in caplog.text
