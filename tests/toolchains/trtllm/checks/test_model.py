"""Specs that preflight refuses: models."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import FACTS, H100, facts
from tests.toolchains.trtllm.checks.refusals import GPTQ, Refusal, assert_rule, find_problems, quantized

REFUSALS = [
    Refusal("architecture", "/model", model=facts(architecture="DeepseekV3ForCausalLM"), allowed_model=FACTS),
    Refusal(
        "architecture", "/model", model=facts(architecture="GemmaForCausalLM"),
        allowed_model=FACTS, allowed_in="0.9.0", version="0.8.0",
    ),
    Refusal(
        "later_model", "/model", model=facts(architecture="Phi3ForCausalLM", hidden_size=5120),
        allowed_model=facts(architecture="Phi3ForCausalLM", hidden_size=3072), allowed_in="0.11.0", version="0.10.0",
    ),
    Refusal(
        "remote_code", "/model", model=facts(remote_code=True),
        allowed_model=facts(remote_code=True, trusted=True),
    ),
    Refusal(
        "gptq_desc_act", "/model", quantized(None, calibrated=False),
        facts(quantization_config=GPTQ | {"desc_act": True}),
        allowed_model=facts(quantization_config=GPTQ | {"desc_act": False}),
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("Grok1ModelForCausalLM", "reads the JAX checkpoint of xAI"),
        ("M2M100ForConditionalGeneration", "learned positions"),
        ("DeepseekV3ForCausalLM", "PyTorch backend alone"),
        ("SomethingElseForCausalLM", "in this farm"),
    ],
)
def test_the_refusal_of_a_model_without_a_conversion_states_the_reason(architecture: str, reason: str) -> None:
    (problem,) = find_problems({}, facts(architecture=architecture), H100)
    assert reason in problem.detail
