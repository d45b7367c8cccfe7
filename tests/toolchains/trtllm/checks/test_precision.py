"""Specs that preflight refuses: precisions."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import FACTS, H100, facts
from tests.toolchains.trtllm.checks.refusals import B200, Refusal, assert_rule, find_problems, quantized

REFUSALS = [
    Refusal(
        "dtype_unknown", "/precision/dtype", {"precision": {}}, facts(dtype=None),
        expected="bfloat16, float16 or float32", allowed_model=FACTS,
    ),
    Refusal(
        "precision_model", "/precision/quantization", quantized("int8_sq"), facts(architecture="FalconForCausalLM"),
        expected="null, int8_wo, int4_wo, int4_awq, w4a8_awq, fp8, auto_quantize", version="0.16.0", allowed_in="1.2.1",
        allowed_fields=quantized("int4_awq"),
    ),
    Refusal(
        "precision_model", "/precision/quantization", quantized("int8_sq"), facts(architecture="InternLM2ForCausalLM"),
        expected="null, int8_wo, int4_wo, w4a8_awq, auto_quantize", version="0.16.0", allowed_in="1.2.1",
        allowed_fields=quantized("int8_wo", calibrated=False),
    ),
    Refusal(
        "nvfp4_model", "/precision/quantization", quantized("nvfp4"), facts(architecture="Qwen2ForCausalLM"), B200,
        allowed_model=FACTS,
    ),
    Refusal(
        "autoq_formats", "/options/autoq_format",
        quantized("auto_quantize", options={"autoq_format": "fp8,int8_sq", "auto_quantize_bits": 8}),
        expected="one of the two",
        allowed_fields=quantized("auto_quantize", options={"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 8}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "quantization"),
    [
        ("InternLM2ForCausalLM", "int4_wo"), ("GLMModel", "int8_wo"), ("ChatGLMModel", "int4_wo"),
        ("ChatGLMModel", "int8_sq"), ("ChatGLMForCausalLM", "int8_wo"), ("OPTForCausalLM", "int4_wo"),
        ("GPTNeoXForCausalLM", "int8_wo"), ("Phi3ForCausalLM", "fp8"),
    ],
)  # fmt: skip
def test_a_readme_of_a_family_is_documentation_beside_the_table(architecture: str, quantization: str) -> None:
    fields = quantized(quantization, calibrated=quantization in ("int8_sq", "fp8"))
    # The vocabulary of ChatGLM2 and ChatGLM3, by which the script is told which of its models it gets.
    assert find_problems(fields, facts(architecture=architecture, vocab_size=65024), H100, "0.16.0") == []


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
