"""Normalization makes of a spec what the builder would make of it: each rewrite, what it changes and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginefarm.contract.errors import Problem
from enginefarm.contract.key import build_document, key_of
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from tests.toolchains.trtllm.build_contexts import BART, FACTS, H100, LLAMA, T5, VERSION, facts, platform, spec, specs
from tests.toolchains.trtllm.field.corpus import named_rows
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.release import find_release
from toolchains.trtllm.releases.rule_table import rules

A100, B200 = platform(sm="80"), platform(sm="100")
GEMMA2 = facts(architecture="Gemma2ForCausalLM")
MIXTRAL = facts(architecture="MixtralForCausalLM", num_experts=8)
RELEASES = ["0.8.0", "0.9.0", "0.10.0", "0.11.0", "0.16.0", "0.20.0", "1.1.0", VERSION]
WARNINGS = {rule.id for rule in rules().values() if rule.effect == "warn"}
PAGED, FP8 = "use_paged_context_fmha", "use_fp8_context_fmha"

Options = dict[str, Any]


def normalize(
    requested: BuildSpec, model: ModelFacts = FACTS, machine: Platform = H100
) -> tuple[BuildSpec, dict[str, Problem]]:
    normal, notes = TOOLCHAIN.normalise(requested, model, machine)
    return normal, {note.code: note for note in notes}


def build_key(requested: BuildSpec, model: ModelFacts = FACTS, machine: Platform = H100) -> str:
    normal, _ = normalize(requested, model, machine)
    convert = normal.model_dump(mode="json", include={"precision", "parallelism"})
    document = build_document(
        convert=key_of(convert), toolchain="trtllm", version=VERSION, limits=normal.limits,
        options=normal.options, platform={},
    )  # fmt: skip
    return key_of(document)


# (release, limits, options, (max_num_tokens, opt_num_tokens), the rule that says so)
TOKENS: list[tuple[str, dict[str, int], Options, tuple[int | None, int | None], str]] = [
    (VERSION, {}, {}, (8192, 32), "tokens_default"),
    (VERSION, {"max_num_tokens": 4096}, {}, (4096, 32), "opt_default"),
    (VERSION, {"max_num_tokens": 10**6}, {}, (32 * 5120, 32), "tokens_clip"),
    (VERSION, {"max_batch_size": 1}, {}, (5120, 1), "tokens_clip"),
    (VERSION, {"max_num_tokens": 16}, {}, (32, 16), "tokens_block"),
    (VERSION, {"max_num_tokens": 16}, {"tokens_per_block": 128}, (128, 16), "tokens_block"),
    (VERSION, {"max_num_tokens": 100}, {"context_fmha": "disable"}, (4096, 32), "tokens_low"),
    (VERSION, {}, {"remove_input_padding": "disable"}, (32 * 5120, None), "no_packing"),
    (VERSION, {"opt_num_tokens": 64}, {"remove_input_padding": "disable"}, (32 * 5120, None), "no_packing"),
    (VERSION, {"opt_num_tokens": 9000}, {}, (8192, 8192), "opt_clip"),
    (VERSION, {"max_beam_width": 4}, {}, (8192, 128), "opt_default"),
    (VERSION, {}, {"multiple_profiles": "enable"}, (8192, None), "tokens_default"),
    (
        VERSION, {"max_num_tokens": 64}, {"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": 7},
        (256, 32), "spec_tokens",
    ),
    ("0.16.0", {"max_num_tokens": 16}, {}, (64, 16), "tokens_block"),
    ("0.10.0", {}, {}, (32 * 4096, 32), "tokens_unset"),
    ("0.10.0", {"max_num_tokens": 10**6}, {}, (32 * 4096, 32), "tokens_clip"),
    ("0.10.0", {"max_num_tokens": 16}, {}, (64, 32), "tokens_block"),
    ("0.10.0", {"max_num_tokens": 16}, {"remove_input_padding": "disable"}, (None, None), "tokens_ignored"),
    ("0.8.0", {}, {}, (32 * 4096, None), "tokens_unset"),
]  # fmt: skip

# (rule, release, precision, options, model, machine, what becomes of which option, options that spare it)
Rewrite = tuple[str, str, Options, Options, ModelFacts, Platform, tuple[str, object], Options]
PLAIN: Options = {}
INT8_KV, FP8_KV, FP8_BOTH = {"kv_cache": "int8"}, {"kv_cache": "fp8"}, {"quantization": "fp8", "kv_cache": "fp8"}
FP8_ONLY, NVFP4 = {"quantization": "fp8"}, {"quantization": "nvfp4"}
OPTIONS: list[Rewrite] = [
    ("plugin_dtype", VERSION, PLAIN, {"gemm_plugin": "bfloat16"}, FACTS, H100, ("gemm_plugin", "auto"),
     {"gemm_plugin": "float16"}),
    ("nccl", VERSION, PLAIN, {"nccl_plugin": "disable"}, FACTS, H100, ("nccl_plugin", "auto"), {}),
    ("fp8_fmha_plain", VERSION, PLAIN, {FP8: "disable"}, FACTS, H100, (FP8, "enable"), {}),
    ("fp8_fmha_plain", "0.16.0", PLAIN, {FP8: "enable"}, FACTS, H100, (FP8, "disable"), {}),
    ("fmha_off", VERSION, PLAIN, {"context_fmha": "disable"}, FACTS, H100, (PAGED, "disable"), {}),
    ("fmha_off", VERSION, FP8_BOTH, {"context_fmha": "disable"}, FACTS, H100, (FP8, "disable"), {}),
    ("paged_fmha_int8_off", VERSION, INT8_KV, {}, FACTS, H100, (PAGED, "disable"), {PAGED: "disable"}),
    ("paged_fmha_fp8kv_off", VERSION, FP8_KV, {}, FACTS, H100, (PAGED, "disable"), {PAGED: "disable"}),
    ("fp8_fmha_forced", VERSION, FP8_BOTH, {FP8: "disable"}, FACTS, H100, (FP8, "enable"), {}),
    ("fp8_fmha_forced", "0.16.0", FP8_BOTH, {PAGED: "enable"}, FACTS, H100, (FP8, "enable"), {}),
    ("fp8_fmha_no_kv", VERSION, FP8_ONLY, {}, FACTS, H100, (FP8, "disable"), {PAGED: "disable"}),
    ("fp8_fmha_sm", VERSION, FP8_ONLY, {}, FACTS, A100, (FP8, "disable"), {FP8: "disable"}),
    ("streamingllm_paged", "1.1.0", PLAIN, {"streamingllm": "enable"}, FACTS, H100, (PAGED, "disable"), {}),
    ("eagle_paged", "0.16.0", PLAIN, {"speculative_decoding_mode": "eagle", "max_draft_len": 4}, FACTS, H100,
     (PAGED, "enable"), {}),
    ("draft_len", VERSION, PLAIN, {"medusa_model_dir": "hf:a/b", "speculative_decoding_mode": "medusa"}, FACTS, H100,
     ("max_draft_len", 63), {"speculative_decoding_mode": "draft_tokens_external"}),
    ("reduce_fusion", VERSION, PLAIN, {"reduce_fusion": "enable"}, FACTS, H100, ("reduce_fusion", "disable"), {}),
    ("reduce_fusion", VERSION, PLAIN, {"reduce_fusion": "enable", "user_buffer": "enable"}, FACTS, H100,
     ("user_buffer", "disable"), {}),
    ("norm_quant_fusion", VERSION, PLAIN, {"norm_quant_fusion": "enable"}, FACTS, H100,
     ("norm_quant_fusion", "disable"), {}),
    ("nvfp4_gemm", VERSION, NVFP4, {"gemm_plugin": "auto"}, FACTS, B200, ("gemm_plugin", "nvfp4"),
     {"gemm_plugin": "disable"}),
    ("fp8_typed", "0.10.0", FP8_ONLY, {}, FACTS, H100, ("strongly_typed", True), {"strongly_typed": True}),
    ("all_logits", VERSION, PLAIN, {"gather_all_token_logits": True}, FACTS, H100, ("gather_context_logits", True),
     {"gather_context_logits": True}),
    ("generation_logits", VERSION, PLAIN, {"gather_generation_logits": True}, FACTS, H100,
     ("gather_generation_logits", False), {}),
    ("lora_qkv", VERSION, PLAIN, {"lora_plugin": "auto", "lora_target_modules": ["attn_v", "attn_dense"]}, FACTS, H100,
     ("lora_target_modules", ["attn_v", "attn_dense", "attn_q", "attn_k"]), {"lora_plugin": "disable"}),
    ("model_variant", VERSION, PLAIN, {}, facts(architecture="ChatGLMModel", vocab_size=65024), H100,
     ("chatglm_version", "chatglm3"), {"chatglm_version": "chatglm2"}),
    ("experts_default", VERSION, PLAIN, {"moe_tp_size": 1, "moe_ep_size": 1}, FACTS, H100, ("moe_ep_size", -1), {}),
    ("enc_dec_moe", VERSION, PLAIN, {}, BART, H100, ("moe_plugin", "disable"), {"moe_plugin": "disable"}),
    ("relative_fmha", "0.15.0", PLAIN, {"context_fmha": "enable"}, T5, H100, ("context_fmha", "disable"),
     {"context_fmha": "disable"}),
    ("autoq_bits", VERSION, {"quantization": "auto_quantize"},
     {"autoq_format": "fp8", "auto_quantize_bits": 5.0}, FACTS, H100, ("auto_quantize_bits", 8),
     {"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 5.0}),
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_spec_with_its_defaults_written_out_is_the_same_spec(requested: BuildSpec) -> None:
    defaults = {name: option.default for name, option in find_release(VERSION).options(LLAMA).items()}
    written = requested.model_copy(update={"options": defaults | requested.options})
    assert normalize(written)[0] == normalize(requested)[0]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_normalizing_a_normalized_spec_changes_nothing(data: st.DataObject) -> None:
    requested = data.draw(st.sampled_from(RELEASES).flatmap(specs))
    normal, _ = normalize(requested)
    again, notes = normalize(normal)
    assert again == normal
    assert set(notes) <= WARNINGS


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_requested_value_changes_only_by_a_rule_of_the_table(data: st.DataObject) -> None:
    requested = data.draw(st.sampled_from(RELEASES).flatmap(specs))
    normal, notes = TOOLCHAIN.normalise(requested, FACTS, H100)
    named = {note.pointer for note in notes if note.code not in WARNINGS}
    before, after = requested.model_dump(), normal.model_dump()
    for section in ("precision", "limits", "options"):
        for name, value in before[section].items():
            assert after[section].get(name) == value or f"/{section}/{name}" in named
    assert (before["parallelism"], before["model"]) == (after["parallelism"], after["model"])
    for note in notes:
        assert note.code == "other_name" or rules()[note.code].in_force(requested.toolchain.version or "")


@settings(max_examples=100, deadline=None)
@given(specs())
def test_a_normalized_spec_survives_json(requested: BuildSpec) -> None:
    normal, _ = normalize(requested)
    if not TOOLCHAIN.preflight(normal, FACTS, H100):
        assert BuildSpec.model_validate_json(normal.model_dump_json()) == normal


@pytest.mark.parametrize(("own", "becomes"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float16")])
def test_dtype_auto_becomes_the_models_own(own: str, becomes: str) -> None:
    normal, notes = normalize(spec(precision={"dtype": "auto"}), facts(dtype=own))
    assert normal.precision.dtype == becomes
    assert (notes["dtype_auto"].value, notes["dtype_auto"].expected) == ("auto", becomes)


def test_a_requested_dtype_stays() -> None:
    normal, notes = normalize(spec(precision={"dtype": "float32"}), facts(dtype="float32"))
    assert normal.precision.dtype == "float32"
    assert "dtype_auto" not in notes


def test_a_quantized_model_keeps_its_quantization() -> None:
    model = facts(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    normal, notes = normalize(spec(), model)
    assert normal.precision.quantization == "int4_gptq"
    assert (notes["model_precision"].pointer, notes["model_precision"].expected) == (
        "/precision/quantization",
        "int4_gptq",
    )
    assert list(TOOLCHAIN.preflight(normal, model, H100)) == []
    assert "model_precision" not in normalize(normal, model)[1]


@pytest.mark.parametrize(("version", "limits", "options", "expected", "rule"), TOKENS)
def test_token_limits_become_what_the_builder_derives(
    version: str, limits: dict[str, int], options: Options, expected: tuple[int | None, int | None], rule: str
) -> None:
    requested = {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024} | limits
    normal, notes = normalize(spec(version, limits=requested, options=options))
    assert (normal.limits.max_num_tokens, normal.limits.opt_num_tokens) == expected
    assert rule in notes
    settled = requested | {name: value for name, value in normal.limits.model_dump().items() if "tokens" in name}
    assert rule not in normalize(spec(version, limits=settled, options=options))[1]


@pytest.mark.parametrize("rewrite", OPTIONS, ids=lambda rewrite: f"{rewrite[0]}-{rewrite[1]}-{rewrite[6][0]}")
def test_an_option_becomes_what_the_builder_uses(rewrite: Rewrite) -> None:
    rule, version, precision, options, model, machine, (name, becomes), spared = rewrite
    requested = {"precision": {"dtype": "bfloat16"} | precision}
    normal, notes = normalize(spec(version, **requested, options=options), model, machine)
    assert normal.options[name] == becomes
    assert notes[rule].pointer.startswith("/options/")
    assert rule not in normalize(spec(version, **requested, options=spared), model, machine)[1]


@pytest.mark.parametrize("rewrite", OPTIONS, ids=lambda rewrite: f"{rewrite[0]}-{rewrite[1]}-{rewrite[6][0]}")
def test_specs_of_one_engine_have_one_key(rewrite: Rewrite) -> None:
    """The request, and the one that says outright what the builder makes of it."""
    _, version, precision, options, model, machine, (name, becomes), _ = rewrite
    requested = {"precision": {"dtype": "bfloat16"} | precision}
    first = spec(version, **requested, options=options)
    second = spec(version, **requested, options=options | {name: becomes})
    assert build_key(first, model, machine) == build_key(second, model, machine)


@pytest.mark.parametrize(("version", "limits", "options", "expected", "rule"), TOKENS)
def test_equal_token_limits_have_one_key(
    version: str, limits: dict[str, int], options: Options, expected: tuple[int | None, int | None], rule: str
) -> None:
    requested = {"max_batch_size": 32, "max_input_len": 4096, "max_output_len": 1024} | limits
    outright = requested | {"max_num_tokens": expected[0], "opt_num_tokens": expected[1]}
    first, second = (spec(version, limits=each, options=options) for each in (requested, outright))
    assert build_key(first) == build_key(second)


def test_specs_of_two_engines_have_two_keys() -> None:
    keys = {
        build_key(spec(options=options))
        for options in ({}, {"gemm_plugin": "float16"}, {"context_fmha": "disable"}, {PAGED: "disable"})
    }
    assert len(keys) == 4


def test_fusion_stays_between_the_ranks_of_a_llama() -> None:
    both = {"reduce_fusion": "enable", "user_buffer": "enable"}
    normal, _ = normalize(spec(options=both, parallelism={"tp": 2}))
    assert (normal.options["reduce_fusion"], normal.options["user_buffer"]) == ("enable", "enable")
    other, notes = normalize(spec(options=both, parallelism={"tp": 2}), MIXTRAL)
    assert (other.options["reduce_fusion"], other.options["user_buffer"]) == ("disable", "disable")
    assert "reduce_fusion" in notes


@pytest.mark.parametrize(("version", "becomes"), [("0.16.0", "disable"), ("1.2.1", "enable")])
def test_gemma_2_fuses_in_later_releases(version: str, becomes: str) -> None:
    requested = spec(version, options={"reduce_fusion": "enable"}, parallelism={"tp": 2})
    assert normalize(requested, GEMMA2)[0].options["reduce_fusion"] == becomes


def test_a_whole_number_written_as_a_float_is_a_whole_number() -> None:
    normal, _ = normalize(spec(options={"tokens_per_block": 64.0}))
    assert isinstance(normal.options["tokens_per_block"], int)


def test_every_rewriting_rule_of_the_table_is_tested() -> None:
    tried = {rule for *_, rule in TOKENS} | {rule for rule, *_ in OPTIONS} | {"dtype_auto", "model_precision"}
    for _, row in named_rows():
        if row.accepted:
            tried.update(row.accepted.notes)
    rewriting = {rule.id for rule in rules().values() if rule.effect == "rewrite" and rule.enforced_at == "submit"}
    assert rewriting <= tried


def test_a_sequence_beyond_the_models_positions_is_advised_against() -> None:
    _, notes = normalize(spec(), facts(max_position_embeddings=4096))
    assert notes["seq_too_long"].expected == "≤ 4096"
    stretched = facts(max_position_embeddings=4096, rope_scaling={"type": "linear", "factor": 2.0})
    assert "seq_too_long" not in normalize(spec(), stretched)[1]
    stated = facts(max_position_embeddings=4096, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    assert "seq_too_long" in normalize(spec(), stated)[1]
    assert "seq_too_long" not in normalize(spec("0.11.0"), facts(max_position_embeddings=4096))[1]


@pytest.mark.parametrize(("tokens", "is_noted"), [(16_384, False), (20_000, True)])
def test_a_large_token_limit_is_advised_against(tokens: int, is_noted: bool) -> None:
    limits = {"max_batch_size": 32, "max_input_len": 4096, "max_num_tokens": tokens}
    assert ("tokens_large" in normalize(spec(limits=limits))[1]) is is_noted
    assert "tokens_large" not in normalize(spec("0.10.0", limits=limits))[1]


@pytest.mark.parametrize(
    ("version", "options", "is_noted"),
    [(VERSION, {}, True), (VERSION, {"context_fmha": "disable"}, False), ("0.11.0", {}, False)],
)
def test_an_input_length_without_effect_gets_a_note(version: str, options: Options, is_noted: bool) -> None:
    assert ("input_ignored" in normalize(spec(version, options=options))[1]) is is_noted


@pytest.mark.parametrize(
    ("version", "limits", "options", "is_noted"),
    [
        (VERSION, {}, {}, True),
        (VERSION, {"max_num_tokens": 16384}, {}, False),
        (VERSION, {"max_input_len": 8192}, {}, False),
        (VERSION, {}, {"context_fmha": "disable"}, False),
        ("0.11.0", {}, {}, False),
    ],
)
def test_a_prompt_longer_than_the_tokens_of_one_step_gets_a_note(
    version: str, limits: dict[str, int], options: Options, is_noted: bool
) -> None:
    longest = {"max_batch_size": 8, "max_input_len": 16384, "max_output_len": 1024}
    _, codes = normalize(spec(version, limits=longest | limits, options=options))
    assert ("prompt_over_tokens" in codes) is is_noted


@pytest.mark.parametrize(
    ("version", "architecture", "quantization", "is_noted"),
    [
        (VERSION, "FalconForCausalLM", "int8_sq", True),
        ("0.16.0", "FalconForCausalLM", "int8_sq", False),  # refused there
        (VERSION, LLAMA, "int8_sq", False),
        # Documented apart from the table of 0.16, or after it.
        (VERSION, "InternLM2ForCausalLM", "int8_wo", False),
        ("0.18.0", "MixtralForCausalLM", "int4_awq", True),
        ("0.19.0", "MixtralForCausalLM", "int4_awq", False),
        (VERSION, "Qwen2ForCausalLM", "fp8", False),
    ],
)
def test_an_undocumented_precision_gets_a_note(
    version: str, architecture: str, quantization: str, is_noted: bool
) -> None:
    requested = spec(version, precision={"dtype": "bfloat16", "quantization": quantization})
    assert ("precision_undocumented" in normalize(requested, facts(architecture=architecture))[1]) is is_noted


@pytest.mark.parametrize(("value", "kv_cache_type"), [("enable", "paged"), ("disable", "continuous")])
@pytest.mark.parametrize("version", ["0.13.0", "0.16.0", "1.0.0", VERSION])
def test_paged_kv_cache_becomes_the_type_of_the_cache(version: str, value: str, kv_cache_type: str) -> None:
    short = {"max_batch_size": 8, "max_input_len": 512, "max_output_len": 64}
    requested = spec(version, limits=short, options={"paged_kv_cache": value})
    normal, notes = normalize(requested)
    assert normal.options["kv_cache_type"] == kv_cache_type
    assert "paged_kv_cache" not in normal.options
    assert notes["other_name"].expected == f"kv_cache_type {kv_cache_type}"
    assert build_key(requested) == build_key(spec(version, limits=short, options={"kv_cache_type": kv_cache_type}))
    assert list(TOOLCHAIN.preflight(normal, FACTS, H100)) == []


def test_paged_kv_cache_beside_the_same_type_of_the_cache_is_one_option_too_many() -> None:
    normal, _ = normalize(spec(options={"paged_kv_cache": "enable", "kv_cache_type": "paged"}))
    assert normal.options["kv_cache_type"] == "paged"
    assert "paged_kv_cache" not in normal.options


def test_encoder_and_decoder_each_have_positions() -> None:
    long = {"max_input_len": 1025, "max_output_len": 1024}
    _, notes = TOOLCHAIN.normalise(spec(limits=long), BART, H100)
    beyond = [(note.pointer, note.value) for note in notes if note.code == "seq_too_long"]
    assert beyond == [("/limits/max_input_len", 1025), ("/limits/max_output_len", 1025)]
    fits = {"max_input_len": 1024, "max_output_len": 1023}
    assert "seq_too_long" not in normalize(spec(limits=fits), BART)[1]
    assert "seq_too_long" not in normalize(spec(limits=long), T5)[1], "relative positions have no end"
    assert "input_ignored" not in normalize(spec(limits=fits), BART)[1]


def test_stages_and_float16_of_an_encoder_decoder_get_notes() -> None:
    assert "enc_dec_pp" in normalize(spec(parallelism={"pp": 2}), BART)[1]
    assert "enc_dec_pp" not in normalize(spec(parallelism={"pp": 2}))[1]
    half = spec(precision={"dtype": "float16"})
    assert "t5_float16" in normalize(half, T5)[1]
    assert "t5_float16" not in normalize(half, BART)[1]


def test_every_warning_of_the_table_is_tested() -> None:
    assert {
        "seq_too_long", "tokens_large", "input_ignored", "prompt_over_tokens", "precision_undocumented",
        "enc_dec_pp", "t5_float16",
        "model_kv_cache",  # in test_conversion
        "whisper_short_input", "whisper_turing", "whisper_blackwell",  # in field/whisper.json
        "draft_len_zero",  # in the corpus
    } == WARNINGS  # fmt: skip
