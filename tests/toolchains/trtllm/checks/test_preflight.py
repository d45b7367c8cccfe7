"""Preflight as a whole: it knows every rule, reports everything at once, and lets possible specs through."""

from __future__ import annotations

import pytest

from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from tests.toolchains.trtllm.build_contexts import FACTS, H100, facts, platform, spec
from tests.toolchains.trtllm.checks import (
    test_adapters,
    test_attention,
    test_drafts,
    test_encoder_decoder,
    test_feasibility,
    test_limits,
    test_model,
    test_option_conflicts,
    test_precision,
    test_release_parts,
    test_tensor_size,
)
from tests.toolchains.trtllm.checks.machine import test_hardware, test_ranks
from tests.toolchains.trtllm.checks.refusals import A100, B200, MIXTRAL, Fields, codes, find_problems, quantized
from tests.toolchains.trtllm.field.corpus import named_rows
from toolchains.trtllm.releases.rule_table import rules

REFUSALS = [
    *test_adapters.REFUSALS,
    *test_attention.REFUSALS,
    *test_drafts.REFUSALS,
    *test_encoder_decoder.REFUSALS,
    *test_feasibility.REFUSALS,
    *test_hardware.REFUSALS,
    *test_limits.REFUSALS,
    *test_model.REFUSALS,
    *test_option_conflicts.REFUSALS,
    *test_precision.REFUSALS,
    *test_ranks.REFUSALS,
    *test_release_parts.REFUSALS,
    *test_tensor_size.REFUSALS,
]


def test_every_rule_that_refuses_at_submit_is_tested() -> None:
    refusing = {rule.id for rule in rules().values() if rule.effect == "error" and rule.enforced_at == "submit"}
    tested = {refusal.rule for refusal in REFUSALS} | {"eagle"}  # test_drafts has a test of its own for it
    for _, row in named_rows():
        tested.update(finding.code for finding in row.refused)
    assert refusing == tested & rules().keys()


@pytest.mark.parametrize(
    ("rule", "fields", "model", "version", "code"),
    [
        ("model_class", {"options": {"model_cls_file": "x.py"}}, FACTS, "1.2.1", "reserved_option"),
        ("build_config_wins", {"options": {"build_config": "x.json"}}, FACTS, "1.2.1", "reserved_option"),
        ("auto_parallel", {"options": {"auto_parallel": 2}}, FACTS, "1.0.0", "reserved_option"),
        ("gemma_pp", {"parallelism": {"pp": 2}}, facts(architecture="GemmaForCausalLM"), "1.2.1", "no_pp"),
        ("quantize_moe_ep", quantized("fp8", options={"moe_ep_size": 2}), MIXTRAL, "1.2.1", "unknown_option"),
    ],
)
def test_a_rule_about_an_option_that_callers_lack_is_refused_as_that_option(
    rule: str, fields: Fields, model: ModelFacts, version: str, code: str
) -> None:
    assert rules()[rule].enforced_at == "option"
    assert codes(find_problems(fields, model, H100, version)) == {code}


@pytest.mark.parametrize("limits", [{"max_input_len": 64, "max_seq_len": 32}, {"max_input_len": 64, "max_seq_len": 64}])
def test_a_spec_whose_total_length_leaves_no_output_is_refused(limits: dict[str, int]) -> None:
    assert rules()["input_gt_seq"].enforced_at == "spec"
    with pytest.raises(InvalidSpec, match="leaves no room"):
        spec(limits=limits)


def test_a_spec_always_has_a_total_length() -> None:
    assert rules()["seq_default"].enforced_at == "spec"
    assert spec(limits={}).limits.max_seq_len == 2048


@pytest.mark.parametrize(
    ("fields", "model", "platform"),
    [
        ({}, FACTS, H100),
        ({"precision": {"dtype": "float16"}}, FACTS, platform(sm="75")),
        ({"parallelism": {"tp": 16}}, FACTS, H100),  # 8 key/value heads, each on two ranks
        ({"parallelism": {"tp": 4}, "options": {"moe_ep_size": 4}}, MIXTRAL, H100),
        ({"parallelism": {"pp": 3}}, FACTS, H100),  # the script of a family spreads layers unevenly
        ({}, FACTS, platform(sm="100a")),
        ({}, facts(num_attention_heads=None, num_key_value_heads=None, num_hidden_layers=None), H100),
        (quantized("fp8", "fp8"), FACTS, H100),
        (quantized("nvfp4", "fp8"), FACTS, B200),
        (quantized("int4_awq"), FACTS, A100),
    ],
)
def test_a_possible_spec_is_let_through(fields: Fields, model: ModelFacts, platform: Platform) -> None:
    assert find_problems(fields, model, platform) == []


@pytest.mark.parametrize("version", ["0.8.0", "0.9.0", "0.16.0", "0.20.0", "1.2.1", "1.3.0rc20"])
def test_the_seed_spec_is_possible_in_every_release(version: str) -> None:
    assert find_problems({}, FACTS, H100, version) == []


def test_all_problems_of_a_spec_are_reported_at_once() -> None:
    fields: Fields = {
        "precision": {"dtype": "bfloat16", "quantization": "int3"},
        "parallelism": {"tp": 5},
        "options": {"no_such": 1, "streamingllm": "enable"},
    }
    assert codes(find_problems(fields, facts(remote_code=True), platform(sm="75"))) == {
        *("remote_code", "quantization", "bf16_sm", "heads_tp", "kv_heads_tp"),
        *("unknown_option", "streamingllm"),
    }
