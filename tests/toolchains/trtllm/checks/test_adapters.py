"""Specs that preflight refuses: LoRA adapters."""

from __future__ import annotations

import pytest

from tests.toolchains.trtllm.build_contexts import facts
from tests.toolchains.trtllm.checks.refusals import LORA, MEDUSA, Refusal, assert_rule, llama_with_adapters

REFUSALS = [
    Refusal(
        "lora_release", "/options/lora_dir", {"options": LORA}, version="0.9.0", allowed_in="0.10.0",
        expected="0.10.0 or newer, or unset", allowed_fields={"options": {}},
    ),
    Refusal(
        "lora_model", "/options/lora_dir", {"options": LORA}, facts(architecture="Qwen3ForCausalLM"),
        allowed_model=facts(architecture="Qwen2ForCausalLM"), allowed_in="0.9.0",
    ),
    Refusal(
        "lora_model", "/options/lora_dir", {"options": LORA}, facts(architecture="Qwen2ForCausalLM"), version="0.10.0",
        expected="0.11.0 or newer, or unset", allowed_fields={"options": {}}, allowed_in="0.11.0",
    ),
    Refusal("lora_model", "/options/lora_dir", {"options": LORA | MEDUSA}, allowed_fields={"options": LORA}),
    Refusal(
        "lora_plugin", "/options/lora_dir", {"options": LORA | {"lora_plugin": "disable"}},
        expected="lora_plugin auto beside it, or unset", allowed_fields={"options": LORA},
    ),
    Refusal(
        "lora_nothing", "/options/lora_plugin", {"options": {"lora_plugin": "auto"}},
        allowed_fields={"options": {"lora_plugin": "auto", "lora_target_modules": ["attn_q"]}},
    ),
    Refusal(
        "lora_source", "/options/lora_ckpt_source", {"options": LORA | {"lora_ckpt_source": "nemo"}},
        expected="hf", allowed_fields={"options": LORA | {"lora_ckpt_source": "hf"}},
    ),
    *(
        Refusal(
            "lora_adapter", "/options/lora_dir/1", {"options": LORA}, llama_with_adapters({}, config),
            allowed_model=llama_with_adapters({}, {"use_dora": False, "bias": "none", "alpha_pattern": {}}),
        )
        for config in (
            {"peft_type": "LOHA"}, {"use_dora": True}, {"bias": "all"}, {"alpha_pattern": {"q_proj": 4}},
            {"r": None},
        )
    ),
    Refusal(
        "lora_rank_pattern", "/options/lora_dir/1", {"options": LORA},
        llama_with_adapters({}, {"rank_pattern": {"q_proj": 4}}), version="0.14.0", allowed_in="0.15.0",
        allowed_model=llama_with_adapters({}, {"rank_pattern": {}}),
    ),
    Refusal(
        "lora_rslora", "/options/lora_dir/0", {"options": LORA | {"lora_target_modules": ["attn_q"]}},
        llama_with_adapters({"use_rslora": True}), version="0.10.0", allowed_in="0.11.0",
        allowed_model=llama_with_adapters({"use_rslora": False}),
    ),
    Refusal(
        "lora_joined", "/options/lora_dir/0", {"options": LORA}, llama_with_adapters({}, {}), version="0.13.0",
        expected="lora_target_modules attn_q, attn_v, attn_k beside it", allowed_in="0.14.0",
        allowed_fields={"options": LORA | {"lora_target_modules": ["attn_q", "attn_v"]}},
    ),
    Refusal(
        "lora_rank", "/options/lora_dir/1", {"options": LORA | {"max_lora_rank": 15}},
        llama_with_adapters({}, {"r": 16}),
        expected="max_lora_rank 16 or more", allowed_fields={"options": LORA | {"max_lora_rank": 16}},
    ),
    Refusal(
        "lora_rank", "/options/lora_dir/0", {"options": LORA}, llama_with_adapters({"rank_pattern": {"v_proj": 128}}),
        expected="max_lora_rank 128 or more", allowed_fields={"options": LORA | {"max_lora_rank": 128}},
    ),
    Refusal(
        "lora_modules", "/options/lora_dir/0", {"options": LORA},
        llama_with_adapters({"target_modules": ["q_proj", "lm_head"]}),
        allowed_model=llama_with_adapters({"target_modules": "all-linear"}),
    ),
    Refusal(
        "lora_modules", "/options/lora_dir/1", {"options": LORA},
        llama_with_adapters({}, {"target_modules": ["o_proj"]}),
        allowed_model=llama_with_adapters({}, {"target_modules": ["k_proj"]}),  # the builder adds it to the others
    ),
    Refusal(
        "lora_modules", "/options/lora_dir/0", {"options": LORA | {"lora_target_modules": ["attn_dense"]}},
        llama_with_adapters({}), allowed_fields={"options": LORA | {"lora_target_modules": ["attn_q"]}},
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
