"""Specs that preflight refuses: checkpoints that no program makes."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import FACTS, H100, T5, facts
from tests.toolchains.trtllm.checks.refusals import (
    DRAFTER,
    EAGLE,
    MEDUSA,
    SHORT_LIMITS,
    Refusal,
    assert_rule,
    find_problems,
    quantized,
)

REFUSALS = [
    Refusal(
        "option_missing", "/options/model_version", {"options": {}}, facts(architecture="BaichuanForCausalLM"),
        allowed_fields={"options": {"model_version": "v2_7b"}}, expected="one of v1_7b, v1_13b, v2_7b, v2_13b",
    ),
    Refusal(
        "no_tp", "/parallelism/tp", {"parallelism": {"tp": 2}}, facts(architecture="MambaForCausalLM"),
        allowed_model=facts(architecture="GPTJForCausalLM"),
    ),
    Refusal(
        "no_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="BloomForCausalLM"),
        allowed_model=facts(architecture="GPTJForCausalLM"),
    ),
    Refusal(
        "quantized_model", "/model", model=facts(quantization_config={"quant_method": "aqlm"}),
        allowed_model=FACTS,
    ),
    Refusal(
        "quantization", "/precision/quantization", quantized("int3", calibrated=False),
        allowed_fields=quantized("int8_wo", calibrated=False),
    ),
    Refusal(
        "kv_cache", "/precision/kv_cache", quantized(None, "int3", calibrated=False),
        expected="null, int8, fp8", allowed_fields=quantized(None, "int8"),
    ),
    Refusal(
        "option_missing", "/options/auto_quantize_bits",
        quantized("auto_quantize", options={"autoq_format": "fp8,int4_awq"}),
        allowed_fields={"options": {"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 8}},
    ),
    Refusal("calibration_missing", "/calibration", quantized("fp8", calibrated=False), allowed_fields=quantized("fp8")),
    Refusal(
        "calibration_unused", "/calibration", quantized("int8_wo"), expected="null",
        allowed_fields=quantized("int8_wo", calibrated=False),
    ),
    Refusal(
        "no_tp", "/parallelism/tp", {"parallelism": {"tp": 2}}, facts(architecture="PhiForCausalLM"),
        version="0.10.0", expected="1", allowed_in="0.16.0", allowed_model=FACTS,
    ),
    Refusal(
        "no_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="GemmaForCausalLM"),
        expected="1", allowed_model=FACTS,
    ),
    Refusal(
        "no_cp", "/parallelism/cp", {"parallelism": {"cp": 2}}, version="0.10.0", expected="1", allowed_in="0.16.0",
        allowed_fields={"parallelism": {"tp": 2}},
    ),
    Refusal(
        "draft_heads", "/options/speculative_decoding_mode",
        {"options": {"speculative_decoding_mode": "medusa", "max_draft_len": 5}},
        allowed_fields={"options": {"speculative_decoding_mode": "draft_tokens_external", "max_draft_len": 5}},
    ),
    Refusal(
        "draft_heads", "/options/speculative_decoding_mode",
        {"options": MEDUSA | {"speculative_decoding_mode": "lookahead_decoding"}},
        expected="medusa", allowed_fields={"options": MEDUSA},
    ),
    Refusal(
        "draft_heads", "/options/speculative_decoding_mode", {"options": {"speculative_decoding_mode": "medusa"}},
        expected="medusa_model_dir beside it, or another mode", allowed_fields={"options": MEDUSA},
    ),
    Refusal(
        "no_pp", "/parallelism/pp", {"options": EAGLE, "parallelism": {"pp": 2}},
        allowed_fields={"parallelism": {"tp": 2}},
    ),
    Refusal(
        "no_cp", "/parallelism/cp", {"options": DRAFTER, "parallelism": {"cp": 2}},
        allowed_fields={"parallelism": {"tp": 2}},
    ),
    Refusal(
        "quantization", "/precision/quantization", quantized("int8_wo", calibrated=False, options=EAGLE),
        expected="null", allowed_fields=quantized(None, calibrated=False, options=EAGLE),
    ),
    Refusal(
        "quantization", "/precision/quantization", quantized("int8_sq", calibrated=False, options=MEDUSA),
        expected="null, int8_wo, int4_wo", allowed_fields=quantized("int8_wo", calibrated=False, options=MEDUSA),
    ),
    Refusal(
        "quantization", "/precision/quantization", quantized("int8_wo", calibrated=False, limits=SHORT_LIMITS), T5,
        allowed_fields=quantized(None, calibrated=False), expected="null",
    ),
]  # fmt: skip


def test_two_impossible_precisions_are_each_answered_with_the_possible_ones() -> None:
    problems = find_problems(quantized("int3", "int3", calibrated=False), FACTS, H100)
    expected = {problem.pointer: (problem.expected or "").split(", ") for problem in problems}
    assert {"null", "int8_wo", "fp8"} <= set(expected["/precision/quantization"])
    assert expected["/precision/kv_cache"] == ["null", "int8", "fp8"]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
