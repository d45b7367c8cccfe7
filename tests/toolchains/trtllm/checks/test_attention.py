"""Specs that preflight refuses: attention options."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import FACTS, facts
from tests.toolchains.trtllm.checks.refusals import EAGLE, Refusal, assert_rule, quantized

REFUSALS = [
    Refusal(
        "streamingllm_llama", "/options/streamingllm", {"options": EAGLE | {"streamingllm": "enable"}},
        version="1.1.0", allowed_fields={"options": EAGLE},
    ),
    Refusal(
        "paged_fmha_int8", "/options/use_paged_context_fmha",
        quantized(None, "int8", options={"use_paged_context_fmha": "enable"}), version="0.16.0", allowed_in="1.2.1",
        expected="disable, or precision.kv_cache null", allowed_fields={"options": {}},
    ),
    Refusal(
        "paged_fmha_fp8kv", "/options/use_paged_context_fmha",
        quantized(None, "fp8", options={"use_paged_context_fmha": "enable"}), version="0.16.0", allowed_in="1.2.1",
        allowed_fields=quantized("fp8", "fp8"),
    ),
    Refusal("streamingllm", "/options/streamingllm", {"options": {"streamingllm": "enable"}}, allowed_in="1.1.0",
         allowed_fields={"options": {}}),
    Refusal(
        "streamingllm_llama", "/options/streamingllm", {"options": {"streamingllm": "enable"}},
        facts(architecture="MistralForCausalLM"), version="0.16.0", allowed_model=FACTS,
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
