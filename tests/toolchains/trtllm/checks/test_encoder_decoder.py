"""Specs that preflight refuses: encoder-decoders."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import BART, T5
from tests.toolchains.trtllm.checks.refusals import SHORT_LIMITS, Refusal, assert_rule

REFUSALS = [
    Refusal(
        "enc_dec_tp", "/parallelism/tp", {"parallelism": {"tp": 2}, "limits": SHORT_LIMITS},
        BART.model_copy(update={"vocab_size": 50265}), allowed_model=BART, expected="tp may be 1",
    ),
    Refusal(
        "enc_dec_cache", "/options/kv_cache_type", {"options": {"kv_cache_type": "disabled"}, "limits": SHORT_LIMITS},
        T5,
        allowed_fields={"options": {"kv_cache_type": "continuous"}}, expected="paged, continuous, or null",
    ),
    Refusal(
        "enc_dec_attention", "/options/gpt_attention_plugin",
        {"options": {"gpt_attention_plugin": "disable"}, "limits": SHORT_LIMITS}, BART, allowed_fields={"options": {}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
