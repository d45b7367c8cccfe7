"""Specs that preflight refuses: models that do not divide among the ranks."""

from __future__ import annotations

import pytest

from enginefarm.contract.model.facts import Stack
from tests.toolchains.trtllm.build_contexts import BART, FACTS, T5, facts
from tests.toolchains.trtllm.checks.refusals import MEDUSA, MIXTRAL, SHORT_LIMITS, Refusal, assert_rule, quantized

REFUSALS = [
    Refusal(
        "heads_tp", "/parallelism/tp", {"parallelism": {"tp": 3}}, facts(num_key_value_heads=None),
        expected="tp may be 1, 2, 4, 8, 16, 32", allowed_fields={"parallelism": {"tp": 4}},
    ),
    Refusal(
        "kv_heads_tp", "/parallelism/tp", {"parallelism": {"tp": 4}},
        facts(num_attention_heads=24, num_key_value_heads=6), expected="tp may be 1, 2, 3, 6, 12, 24",
        allowed_fields={"parallelism": {"tp": 12}},  # each of the six twice
    ),
    Refusal(
        "pp_layers", "/parallelism/pp", {"parallelism": {"pp": 3}}, expected="pp may be 1, 2, 4, 8, 16, 32",
        version="0.21.0", allowed_in="1.0.0", allowed_fields={"parallelism": {"pp": 4}},
    ),
    Refusal(
        "pp_layers_uneven", "/parallelism/pp", quantized("fp8", parallelism={"pp": 3}),
        expected="pp may be 1, 2, 4, 8, 16, 32", allowed_fields=quantized("int8_wo", calibrated=False),
    ),
    Refusal(
        "pp_layers_uneven", "/parallelism/pp", {"options": MEDUSA, "parallelism": {"pp": 3}},
        allowed_fields={"parallelism": {"pp": 4}},
    ),
    Refusal(
        "phi_pp", "/parallelism/pp", {"parallelism": {"pp": 2}}, facts(architecture="Phi3ForCausalLM"),
        expected="pp may be 1", allowed_model=FACTS,
    ),
    Refusal(
        "moe_tp_ep", "/options/moe_ep_size",
        {"options": {"moe_tp_size": 2, "moe_ep_size": 2}, "parallelism": {"tp": 2}}, MIXTRAL,
        allowed_fields={"parallelism": {"tp": 4}},
    ),
    Refusal(
        "experts_ep", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 4}, "parallelism": {"tp": 4}}, facts(num_experts=6),
        expected="moe_ep_size may be 1, 2", allowed_fields={"options": {"moe_ep_size": 2}},
    ),
    Refusal(
        "cp_moe", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 2}, "parallelism": {"tp": 2, "cp": 2}}, MIXTRAL,
        allowed_fields={"options": {}},
    ),
    Refusal(
        "cp_packing", "/options/remove_input_padding",
        {"options": {"remove_input_padding": "disable"}, "parallelism": {"cp": 2}, "limits": {"max_batch_size": 2}},
        expected="enable", allowed_fields={"options": {}},
    ),
    Refusal(
        "heads_tp", "/parallelism/tp", {"parallelism": {"tp": 8}, "limits": SHORT_LIMITS},
        BART.model_copy(update={"encoder": Stack(num_attention_heads=12)}), allowed_model=BART,
        expected="tp may be 1, 2, 4",
    ),
    Refusal(
        "pp_layers_uneven", "/parallelism/pp", {"parallelism": {"pp": 4}, "limits": SHORT_LIMITS}, T5,
        allowed_fields={"parallelism": {"pp": 6}}, expected="pp may be 1, 2, 3, 6",
    ),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_a_broken_rule_is_refused(refusal: Refusal) -> None:
    assert_rule(refusal)
