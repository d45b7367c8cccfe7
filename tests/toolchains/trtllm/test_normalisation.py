from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from enginefarm.errors import Problem
from enginefarm.facts import ModelFacts
from enginefarm.platform import Platform
from enginefarm.spec import BuildSpec
from tests.doubles.option_parser import DATA
from tests.toolchains.trtllm.cases import FACTS, H100, LLAMA, VERSION, facts, spec, specs
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.release import find

TOKENS: list[tuple[dict[str, int], dict[str, Any], tuple[int, int | None], str]] = [
    ({}, {}, (8192, 32), "tokens_default"),
    ({"max_num_tokens": 4096}, {}, (4096, 32), "opt_default"),
    ({"max_num_tokens": 10**6}, {}, (32 * 5120, 32), "tokens_clip"),
    ({"max_batch_size": 1}, {}, (5120, 1), "tokens_clip"),
    ({"max_num_tokens": 16}, {}, (32, 32), "tokens_block"),
    ({"max_num_tokens": 16}, {"tokens_per_block": 128}, (128, 32), "tokens_block"),
    ({"max_num_tokens": 100}, {"context_fmha": "disable"}, (4096, 32), "tokens_low"),
    ({}, {"remove_input_padding": "disable"}, (32 * 5120, None), "no_packing"),
    ({"opt_num_tokens": 64}, {"remove_input_padding": "disable"}, (32 * 5120, None), "no_packing"),
    ({"opt_num_tokens": 9000}, {}, (8192, 8192), "opt_clip"),
    ({"max_beam_width": 4}, {}, (8192, 128), "opt_default"),
    ({}, {"multiple_profiles": "enable"}, (8192, None), "tokens_default"),
]
OPTIONS: list[tuple[dict[str, Any], str, object, str]] = [
    ({"gemm_plugin": "bfloat16"}, "gemm_plugin", "auto", "plugin_dtype"),
    ({"nccl_plugin": "disable"}, "nccl_plugin", "auto", "nccl"),
    ({"use_fp8_context_fmha": "disable"}, "use_fp8_context_fmha", "enable", "fp8_fmha_plain"),
    (
        {"context_fmha": "disable", "use_paged_context_fmha": "disable"},
        "use_paged_context_fmha", "enable", "fmha_off",
    ),
    ({"reduce_fusion": "enable"}, "reduce_fusion", "disable", "reduce_fusion"),
    ({"reduce_fusion": "enable", "user_buffer": "enable"}, "user_buffer", "disable", "reduce_fusion"),
    ({"norm_quant_fusion": "enable"}, "norm_quant_fusion", "disable", "norm_quant_fusion"),
    ({"gather_all_token_logits": True}, "gather_context_logits", True, "all_logits"),
    ({"moe_tp_size": 1, "moe_ep_size": 1}, "moe_ep_size", -1, "experts_default"),
]  # fmt: skip


def normalise(
    wanted: BuildSpec, model: ModelFacts = FACTS, machine: Platform = H100
) -> tuple[BuildSpec, dict[str, Problem]]:
    normal, notes = TOOLCHAIN.normalise(wanted, model, machine)
    return normal, {note.code: note for note in notes}


@settings(max_examples=100, deadline=None)
@given(specs())
def test_written_out_defaults_change_nothing(wanted: BuildSpec) -> None:
    defaults = {name: option.default for name, option in find(VERSION).options(LLAMA).items()}
    written = wanted.model_copy(update={"options": defaults | wanted.options})
    assert normalise(written)[0] == normalise(wanted)[0]


@settings(max_examples=100, deadline=None)
@given(specs())
def test_idempotent(wanted: BuildSpec) -> None:
    normal, _ = normalise(wanted)
    again, notes = normalise(normal)
    assert again == normal
    assert set(notes) <= {"seq_too_long", "tokens_large"}  # warnings, not changes


@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_normal_spec_travels_as_json(wanted: BuildSpec) -> None:
    normal, _ = normalise(wanted)
    if not TOOLCHAIN.preflight(normal, FACTS, H100):
        assert BuildSpec.model_validate_json(normal.model_dump_json()) == normal


@pytest.mark.parametrize(("own", "becomes"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float16")])
def test_dtype_auto_is_the_models_own(own: str, becomes: str) -> None:
    normal, notes = normalise(spec(precision={"dtype": "auto"}), facts(dtype=own))
    assert normal.precision.dtype == becomes
    assert (notes["dtype_auto"].value, notes["dtype_auto"].expected) == ("auto", becomes)


def test_the_quantisation_that_a_model_has_is_what_it_gets() -> None:
    model = facts(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    normal, notes = normalise(spec(), model)
    assert normal.precision.quantization == "int4_gptq"
    assert (notes["model_precision"].pointer, notes["model_precision"].expected) == (
        "/precision/quantization",
        "int4_gptq",
    )
    assert list(TOOLCHAIN.preflight(normal, model, H100)) == []


def test_a_dtype_that_was_asked_for_stays() -> None:
    normal, notes = normalise(spec(precision={"dtype": "float32"}), facts(dtype="float32"))
    assert normal.precision.dtype == "float32"
    assert "dtype_auto" not in notes


@pytest.mark.parametrize(("limits", "options", "expected", "rule"), TOKENS)
def test_token_limits_are_what_the_builder_makes_of_them(
    limits: dict[str, int], options: dict[str, Any], expected: tuple[int, int | None], rule: str
) -> None:
    asked = {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024} | limits
    normal, notes = normalise(spec(limits=asked, options=options))
    assert (normal.limits.max_num_tokens, normal.limits.opt_num_tokens) == expected
    assert rule in notes


@pytest.mark.parametrize(("options", "name", "becomes", "rule"), OPTIONS)
def test_options_are_what_the_builder_makes_of_them(
    options: dict[str, Any], name: str, becomes: object, rule: str
) -> None:
    normal, notes = normalise(spec(options=options))
    assert normal.options[name] == becomes
    assert rule in notes


def test_a_whole_number_is_one_however_json_writes_it() -> None:
    normal, _ = normalise(spec(options={"tokens_per_block": 64.0}))
    assert isinstance(normal.options["tokens_per_block"], int)


def test_every_rewriting_rule_of_the_table_has_its_case() -> None:
    rules = json.loads((DATA / "rules.json").read_bytes())["rules"]
    tried = {rule for *_, rule in (*TOKENS, *OPTIONS)} | {
        "dtype_auto",
        "model_precision",
        "seq_too_long",
        "tokens_large",
    }
    assert tried == {rule["id"] for rule in rules if rule["effect"] in ("rewrite", "warn")}


def test_reduce_fusion_counts_between_ranks() -> None:
    wanted = spec(options={"reduce_fusion": "enable", "user_buffer": "enable"}, parallelism={"tp": 2})
    normal, _ = normalise(wanted)
    assert (normal.options["reduce_fusion"], normal.options["user_buffer"]) == ("enable", "enable")


def test_experts_are_resolved_for_a_mixture() -> None:
    mixture = facts(architecture="MixtralForCausalLM", num_experts=8)
    normal, _ = normalise(spec(options={"moe_ep_size": 2}, parallelism={"tp": 4}), mixture)
    assert (normal.options["moe_tp_size"], normal.options["moe_ep_size"]) == (2, 2)


def test_nothing_wrong_is_tidied_away() -> None:
    normal, _ = normalise(spec(options={"nccl_plugin": "bogus", "no_such": 1}))
    assert (normal.options["nccl_plugin"], normal.options["no_such"]) == ("bogus", 1)
    found = {problem.pointer for problem in TOOLCHAIN.preflight(normal, FACTS, H100)}
    assert found == {"/options/nccl_plugin", "/options/no_such"}


def test_what_the_model_was_not_made_for_is_said() -> None:
    _, notes = normalise(spec(), facts(max_position_embeddings=4096))
    assert notes["seq_too_long"].expected == "≤ 4096"
    stretched = facts(max_position_embeddings=4096, rope_scaling={"type": "linear", "factor": 2.0})
    assert "seq_too_long" not in normalise(spec(), stretched)[1]
    stated = facts(max_position_embeddings=4096, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert "seq_too_long" in normalise(spec(), stated)[1]


def test_many_tokens_are_remarked_on() -> None:
    limits = {"max_batch_size": 32, "max_input_len": 4096, "max_num_tokens": 20_000}
    assert "tokens_large" in normalise(spec(limits=limits))[1]
