"""Specs that preflight refuses: tensors that are too large for TensorRT."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import BART, T5
from tests.toolchains.trtllm.checks.refusals import MIXTRAL, SHORT_LIMITS, Refusal, assert_rule

REFUSALS = [
    Refusal(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 1 << 18}}, expected="< 149797",
        allowed_fields={"limits": {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 149_796}},
    ),
    # Each of 8 ranks has an eighth of the inner layer, so that the hidden states are wider.
    Refusal(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 256, "max_input_len": 4096, "max_num_tokens": 1 << 19}, "parallelism": {"tp": 8}},
        expected="< 524288",
        allowed_fields={"limits": {"max_batch_size": 256, "max_input_len": 4096, "max_num_tokens": (1 << 19) - 1}},
    ),
    # Experts are not narrower with expert parallelism.
    Refusal(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 1 << 18}, "parallelism": {"tp": 2},
         "options": {"moe_ep_size": 2}},
        MIXTRAL, expected="< 149797", allowed_fields={"options": {}},
    ),
    Refusal(
        "volume", "/limits/max_num_tokens",
        {"limits": {"max_batch_size": 64, "max_input_len": 1024, "max_num_tokens": 16_744},
         "options": {"gather_context_logits": True}},
        expected="< 16744", allowed_fields={"options": {}},
    ),
    Refusal(
        "volume", "/options/kv_cache_type",
        {"limits": {"max_batch_size": 1024, "max_input_len": 1024}, "options": {"kv_cache_type": "continuous"}},
        expected="paged, or max_batch_size × max_beam_width < 512",
        allowed_fields={"options": {"kv_cache_type": "paged"}},
    ),
    Refusal(
        "volume", "/limits/max_batch_size", {"limits": SHORT_LIMITS | {"max_batch_size": 1024}}, BART,
        allowed_fields={"limits": SHORT_LIMITS | {"max_batch_size": 1023}},
        expected="< 1024, or a shorter max_input_len",
    ),
    Refusal(
        "volume", "/limits/max_output_len", {"limits": SHORT_LIMITS | {"max_output_len": 12_000}}, T5,
        allowed_fields={"options": {"use_implicit_relative_attention": True}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
