"""Specs that preflight refuses: what a GPU cannot do."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import H100, platform
from tests.toolchains.trtllm.checks.refusals import A100, B200, CPU, L40S, Refusal, assert_rule, quantized

REFUSALS = [
    Refusal("needs_gpu", "/platform", platform=CPU, allowed_platform=H100),
    Refusal(
        "volta", "/platform/sm", {"precision": {"dtype": "float16"}}, platform=platform(sm="70"), version="0.16.0",
        expected="SM 75 or newer", allowed_in="0.14.0", allowed_platform=platform(sm="75"),
    ),
    Refusal("blackwell", "/platform/sm", platform=B200, version="0.16.0", allowed_in="0.17.0", allowed_platform=H100),
    Refusal(
        "bf16_sm", "/precision/dtype", platform=platform(sm="75"), expected="float16 or float32", allowed_platform=A100
    ),
    Refusal(
        "fp8_sm", "/precision/quantization", quantized("fp8"), platform=A100, allowed_platform=L40S,
        expected="null, int8_wo, int4_wo, int8_sq, int4_awq, auto_quantize",
    ),
    Refusal(
        "fp8_kv_sm", "/precision/kv_cache", quantized(None, "fp8"), platform=A100, expected="null, int8",
        allowed_platform=L40S,
    ),
    Refusal("w4a8_sm", "/precision/quantization", quantized("w4a8_awq"), platform=A100, allowed_platform=L40S),
    Refusal(
        "fp8_rowwise_hopper", "/precision/quantization", quantized("fp8_rowwise", calibrated=False), platform=L40S,
        version="0.13.0", allowed_platform=H100, allowed_in="0.15.0",
    ),
    Refusal(
        "fp8_rowwise_sm", "/precision/quantization", quantized("fp8_rowwise", calibrated=False), platform=A100,
        allowed_platform=L40S,
    ),
    Refusal("nvfp4_sm", "/precision/quantization", quantized("nvfp4"), allowed_platform=B200),
    Refusal(
        "fp8_fmha_hopper", "/options/use_fp8_context_fmha",
        quantized("fp8", "fp8", options={"use_fp8_context_fmha": "enable"}), platform=L40S, version="0.11.0",
        allowed_in="0.12.0", allowed_platform=H100, expected="disable",
    ),
    Refusal(
        "fp8_fmha_ada", "/options/use_fp8_context_fmha",
        quantized("fp8", "fp8", options={"use_fp8_context_fmha": "enable"}), platform=A100, version="0.16.0",
        allowed_in="1.2.1", allowed_platform=L40S, expected="disable", also_broken=("fp8_sm", "fp8_kv_sm"),
    ),
    Refusal(
        "swiglu_sm", "/options/gemm_swiglu_plugin",
        quantized("fp8", options={"gemm_swiglu_plugin": "fp8"}), platform=L40S,
        expected="disable", allowed_platform=H100,
    ),
    Refusal(
        "sm100_int", "/precision/quantization", quantized("int4_awq"), platform=B200,
        expected="null, w4a8_awq, fp8, nvfp4, auto_quantize",
        allowed_in="0.17.0", allowed_platform=platform(sm="120"),
    ),
    Refusal(
        "sm100_int", "/precision/kv_cache", quantized(None, "int8"), platform=B200,
        allowed_fields=quantized(None, "fp8"),
    ),
    Refusal(
        "sm100_plugins", "/options/gemm_swiglu_plugin",
        quantized("fp8", options={"gemm_swiglu_plugin": "fp8"}), platform=B200,
        expected="disable", allowed_fields={"options": {"gemm_swiglu_plugin": "disable"}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
