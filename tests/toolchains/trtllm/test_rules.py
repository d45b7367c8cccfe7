"""One case a rule, and every rule of the table has one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from enginefarm.facts import ModelFacts
from enginefarm.platform import Platform
from tests.doubles.option_parser import DATA
from tests.toolchains.trtllm.cases import FACTS, H100, facts, platform, spec
from toolchains.trtllm import TOOLCHAIN

RULES = {rule["id"]: rule for rule in json.loads((DATA / "rules.json").read_bytes())["rules"]}
CPU = Platform(arch="x86_64", cpu_isa="x86-64-v3")
MIXTRAL = facts(architecture="MixtralForCausalLM", num_experts=8)
TOKENS = {"max_batch_size": 64, "max_input_len": 4096, "max_num_tokens": 1 << 18}


@dataclass(frozen=True)
class Refused:
    rule: str
    pointer: str
    parts: dict[str, Any] = field(default_factory=dict)
    model: ModelFacts = FACTS
    machine: Platform = H100
    expected: str | None = None


CASES = [
    Refused("architecture", "/model", model=facts(architecture="GPTJForCausalLM")),
    Refused("quantized_model", "/model", model=facts(quantization_config={"quant_method": "aqlm"})),
    Refused("remote_code", "/model", model=facts(remote_code=True)),
    Refused("dtype_unknown", "/precision/dtype", {"precision": {}}, facts(dtype=None)),
    Refused("quantization", "/precision/quantization", {"precision": {"quantization": "int3"}}),
    Refused("kv_cache", "/precision/kv_cache", {"precision": {"kv_cache": "int3"}}, expected="null, int8, fp8"),
    Refused("needs_gpu", "/platform", machine=CPU),
    Refused("bf16_sm", "/precision/dtype", machine=platform(sm="75"), expected="float16 or float32"),
    Refused(
        "heads_tp", "/parallelism/tp", {"parallelism": {"tp": 3}},
        facts(num_key_value_heads=None), expected="tp may be 1, 2, 4, 8, 16, 32",
    ),
    Refused(
        "kv_heads_tp", "/parallelism/tp", {"parallelism": {"tp": 4}},
        facts(num_attention_heads=24, num_key_value_heads=6), expected="tp may be 1, 2, 3, 6, 12, 24",
    ),
    Refused("pp_layers", "/parallelism/pp", {"parallelism": {"pp": 3}}, expected="pp may be 1, 2, 4, 8, 16, 32"),
    Refused("moe_tp_ep", "/options/moe_ep_size", {"options": {"moe_tp_size": 2, "moe_ep_size": 2}}),
    Refused(
        "experts_ep", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 4}, "parallelism": {"tp": 4}}, facts(num_experts=6), expected="a divisor of 6",
    ),
    Refused(
        "cp_moe", "/options/moe_ep_size",
        {"options": {"moe_ep_size": 2}, "parallelism": {"tp": 2, "cp": 2}}, MIXTRAL,
    ),
    Refused("volume", "/limits/max_num_tokens", {"limits": TOKENS}, expected="< 149797"),
    Refused(
        "cp_packing", "/options/remove_input_padding",
        {"options": {"remove_input_padding": "disable"}, "parallelism": {"cp": 2},
         "limits": {"max_batch_size": 2}}, expected="enable",
    ),
    Refused(
        "opt_profiles", "/options/multiple_profiles",
        {"options": {"multiple_profiles": "enable"}, "limits": {"opt_num_tokens": 8}},
    ),
    Refused(
        "weight_streaming", "/options/gemm_plugin", {"options": {"weight_streaming": True, "gemm_plugin": "auto"}}
    ),
    Refused("streamingllm", "/options/streamingllm", {"options": {"streamingllm": "enable"}}),
    Refused("pp_reduce_scatter", "/options/pp_reduce_scatter", {"options": {"pp_reduce_scatter": "enable"}}),
    Refused(
        "sm100_plugins", "/options/gemm_swiglu_plugin", {"options": {"gemm_swiglu_plugin": "fp8"}},
        machine=platform(sm="100"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_rule(case: Refused) -> None:
    normal, _ = TOOLCHAIN.normalise(spec(**case.parts), case.model, case.machine)
    (problem,) = TOOLCHAIN.preflight(normal, case.model, case.machine)
    assert (problem.code, problem.pointer) == (case.rule, case.pointer)
    assert case.expected is None or problem.expected == case.expected


def test_every_refusing_rule_of_the_table_has_its_case() -> None:
    refusing = {name for name, rule in RULES.items() if rule["effect"] not in ("rewrite", "warn")}
    assert refusing == {case.rule for case in CASES}


@pytest.mark.parametrize(
    ("parts", "model", "machine"),
    [
        ({}, FACTS, H100),
        ({"precision": {"dtype": "float16"}}, FACTS, platform(sm="75")),
        ({"parallelism": {"tp": 16}}, FACTS, H100),  # 8 kv heads, each twice
        ({"parallelism": {"tp": 4}, "options": {"moe_ep_size": 4}}, MIXTRAL, H100),
        ({"options": {"weight_streaming": True}}, FACTS, H100),
        ({"options": {"pp_reduce_scatter": "enable"}}, MIXTRAL, H100),
        ({}, FACTS, platform(sm="100a")),
        ({}, facts(num_attention_heads=None, num_key_value_heads=None, num_hidden_layers=None), H100),
    ],
)
def test_what_is_possible_is_let_through(parts: dict[str, Any], model: ModelFacts, machine: Platform) -> None:
    normal, _ = TOOLCHAIN.normalise(spec(**parts), model, machine)
    assert list(TOOLCHAIN.preflight(normal, model, machine)) == []


def test_all_that_is_wrong_at_once() -> None:
    wrong = spec(
        precision={"dtype": "bfloat16", "quantization": "int3"},
        parallelism={"tp": 5, "pp": 7},
        options={"no_such": 1, "streamingllm": "enable"},
    )
    model = facts(remote_code=True)
    normal, _ = TOOLCHAIN.normalise(wrong, model, platform(sm="75"))
    codes = {problem.code for problem in TOOLCHAIN.preflight(normal, model, platform(sm="75"))}
    assert codes == {
        *("remote_code", "quantization", "bf16_sm", "heads_tp", "kv_heads_tp", "pp_layers"),
        *("unknown_option", "streamingllm"),
    }
