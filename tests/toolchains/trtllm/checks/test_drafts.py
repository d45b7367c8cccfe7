"""Specs that preflight refuses: speculative decoding."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import FACTS, H100, facts, platform
from tests.toolchains.trtllm.checks.refusals import (
    A100,
    DRAFTER,
    EAGLE,
    MEDUSA,
    Refusal,
    assert_rule,
    codes,
    find_problems,
)

REFUSALS = [
    Refusal(
        "logits_draft", "/options/gather_context_logits",
        {"options": {"gather_context_logits": True, "max_draft_len": 4,
                     "speculative_decoding_mode": "draft_tokens_external"}},
        allowed_fields={"options": {"gather_context_logits": True}},
    ),
    Refusal(
        "draft_len_other", "/options/max_draft_len", {"options": MEDUSA | {"max_draft_len": 5}},
        expected="63, or unset", allowed_fields={"options": MEDUSA | {"max_draft_len": 5, "max_medusa_token_len": 5}},
    ),
    Refusal(
        "draft_model", "/options/eagle_model_dir", {"options": EAGLE},
        facts(beside={"eagle_model_dir": {"hidden_size": 5120}}),
        allowed_model=facts(beside={"eagle_model_dir": {"hidden_size": 4096, "architectures": ["LlamaForCausalLM"]}}),
    ),
    Refusal(
        "draft_model", "/options/eagle_model_dir", {"options": EAGLE},
        facts(beside={"eagle_model_dir": {"architectures": ["LlamaForCausalLMEagle3"]}}),
        allowed_model=facts(beside={"eagle_model_dir": {"architectures": None}}),
    ),
    Refusal(
        "draft_model", "/options/drafter_model_dir", {"options": DRAFTER},
        facts(beside={"drafter_model_dir": {"num_draft_layers": 2, "hidden_size": 4096, "exit_dim": 8192}}),
        allowed_model=facts(
            beside={"drafter_model_dir": {"num_draft_layers": 2, "hidden_size": 4096, "exit_dim": 8192, "rnn": False}}
        ),
    ),
    Refusal(
        "draft_dtype", "/precision/dtype", {"options": EAGLE, "precision": {"dtype": "float32"}},
        expected="float16 or bfloat16", allowed_fields={"precision": {"dtype": "float16"}},
    ),
    Refusal(
        "draft_sm", "/platform/sm", {"options": EAGLE, "precision": {"dtype": "float16"}},
        platform=platform(sm="75"), expected="SM 80 or newer", allowed_platform=A100,
    ),
    Refusal(
        "draft_cache", "/options/kv_cache_type", {"options": EAGLE | {"kv_cache_type": "disabled"}},
        expected="paged, or unset", allowed_fields={"options": EAGLE | {"kv_cache_type": "paged"}},
    ),
    Refusal(
        "draft_packing", "/options/remove_input_padding",
        {"options": DRAFTER | {"remove_input_padding": "disable"}, "limits": {"max_batch_size": 1}},
        expected="enable", allowed_fields={"options": DRAFTER},
    ),
    Refusal(
        "draft_len_other", "/options/max_draft_len", {"options": DRAFTER | {"max_draft_len": 10}},
        expected="25, or unset", allowed_fields={"options": DRAFTER | {"max_draft_len": 10, "redrafter_num_beams": 2}},
    ),
    Refusal(
        "eagle_rope", "/model", {"options": EAGLE}, facts(rope_scaling={"rope_type": "linear", "factor": 2.0}),
        expected="a model without rope_scaling", allowed_model=FACTS,
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)


def test_eagle_bounds_the_batch_and_the_draft() -> None:
    # Without a model for its heads the mode is refused too.
    eagle = {"max_draft_len": 300, "speculative_decoding_mode": "eagle"}
    problems = find_problems({"options": eagle, "limits": {"max_batch_size": 513}}, FACTS, H100)
    assert {problem.pointer for problem in problems if problem.code == "eagle"} == {
        "/limits/max_batch_size", "/options/max_draft_len",
    }  # fmt: skip
    within_bounds = {"options": eagle | {"max_draft_len": 8}, "limits": {"max_batch_size": 8}}
    assert codes(find_problems(within_bounds, FACTS, H100)) == {"draft_heads"}
