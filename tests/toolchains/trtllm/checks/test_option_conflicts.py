"""Specs that preflight refuses: options that exclude each other."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.checks.refusals import LORA, MIXTRAL, Refusal, assert_rule, quantized

REFUSALS = [
    Refusal(
        "opt_profiles", "/options/multiple_profiles",
        {"options": {"multiple_profiles": "enable"}, "limits": {"opt_num_tokens": 8}}, allowed_fields={"limits": {}},
    ),
    Refusal(
        "refit_side_files", "/options/strip_plan", {"options": LORA | {"strip_plan": True}},
        expected="false", allowed_fields={"options": LORA},
    ),
    Refusal(
        "weight_streaming", "/options/gemm_plugin", {"options": {"weight_streaming": True, "gemm_plugin": "auto"}},
        expected="disable", allowed_fields={"options": {"weight_streaming": True, "gemm_plugin": "disable"}},
    ),
    Refusal(
        "manage_weights", "/options/fast_build",
        quantized("int8_wo", calibrated=False, options={"fast_build": True, "disable_weight_only_quant_plugin": True}),
        allowed_fields={"options": {"fast_build": True}},
    ),
    Refusal(
        "refit_side_files", "/options/strip_plan", {"options": {"strip_plan": True, "fast_build": True}},
        version="0.16.0", expected="false", allowed_fields={"options": {"strip_plan": True}},
    ),
    Refusal(
        "refit_side_files", "/options/strip_plan",
        quantized("auto_quantize", options={"autoq_format": "fp8", "auto_quantize_bits": 8, "strip_plan": True}),
        version="0.16.0", allowed_fields={"options": {"autoq_format": "fp8", "auto_quantize_bits": 8}},
    ),
    Refusal(
        "swiglu", "/options/gemm_swiglu_plugin",
        quantized("fp8", options={"gemm_swiglu_plugin": "fp8", "use_fused_mlp": "disable"}),
        allowed_fields={"options": {"gemm_swiglu_plugin": "fp8"}},
    ),
    Refusal(
        "pp_reduce_scatter", "/options/pp_reduce_scatter", {"options": {"pp_reduce_scatter": "enable"}},
        allowed_model=MIXTRAL,
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
