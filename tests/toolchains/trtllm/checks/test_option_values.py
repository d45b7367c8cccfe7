from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from enginefarm.contract.errors import Problem
from tests.doubles.option_parser import DATA
from tests.toolchains.trtllm.build_contexts import FACTS, H100, LLAMA, VERSION, spec
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.releases.precision_recipe import recipe_option_names
from toolchains.trtllm.releases.release import (
    ReleaseDescriptor,
    all_releases,
    find_release,
    switches_of_two_forms,
)
from toolchains.trtllm.releases.reserved_options import former_options, reserved_options

SCHEMA = TOOLCHAIN.options_schema(VERSION)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.floats(0, 2, exclude_min=True) | WORDS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def validator_of(schema: Mapping[str, Any]) -> Any:
    """A validator of JSON Schema 2020-12."""
    # Imported here, because the import takes three seconds, and every process of pytest-xdist imports this file.
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema)


def problems(**options: Any) -> list[Problem]:
    normal, _ = TOOLCHAIN.normalise(spec(options=options), FACTS, H100)
    return list(TOOLCHAIN.preflight(normal, FACTS, H100))


def only(all_problems: list[Problem]) -> Problem:
    (problem,) = all_problems
    return problem


def test_an_unknown_option_is_refused_with_the_nearest_name() -> None:
    problem = only(problems(gemm_plugins="auto"))
    assert (problem.pointer, problem.code) == ("/options/gemm_plugins", "unknown_option")
    assert problem.remedy is not None
    assert "gemm_plugin" in problem.remedy


def test_a_prefix_of_an_option_is_no_name_of_it() -> None:
    assert only(problems(gemm_p="auto")).code == "unknown_option"


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("max_output_len", "/limits/max_output_len: 1024"),
        ("use_gemm_plugin", "/options/gemm_plugin"),
        ("moe_tp_mode", "/options/moe_tp_size"),
    ],
)
def test_a_renamed_option_is_refused_with_the_new_name(name: str, instead: str) -> None:
    problem = only(problems(**{name: 1024}))
    assert (problem.code, problem.remedy) == ("former_option", f"use {instead}")


def test_a_removed_option_is_to_be_left_out() -> None:
    assert only(problems(enable_xqa="enable")).remedy == "remove it"


@pytest.mark.parametrize("name", sorted(reserved_options()))
def test_a_reserved_option_is_refused(name: str) -> None:
    assert only(problems(**{name: "x"})).code in ("reserved_option", "former_option")


def test_an_option_of_another_section_is_refused_with_its_pointer() -> None:
    assert only(problems(max_batch_size=8)).remedy == "use /limits/max_batch_size: 8"
    assert only(problems(tp_size=2)).remedy == "use /parallelism/tp: 2"
    assert only(problems(use_fp8=True)).remedy == "use /precision/quantization: fp8"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("gemm_plugin", "bfloat8", "one of auto, float16, float32, bfloat16, int32, fp8, nvfp4, disable or null"),
        ("tokens_per_block", "64", "a whole number ≥ 1"),
        ("tokens_per_block", True, "a whole number ≥ 1"),
        ("tokens_per_block", 0, "a whole number ≥ 1"),
        ("fast_build", "true", "true or false"),
        ("context_fmha", True, "one of enable, disable"),
        ("context_fmha", None, "one of enable, disable"),
        ("embedding_sharding_dim", 2, "one of 0, 1"),
    ],
)
def test_a_wrong_value_is_refused_with_the_accepted_ones(name: str, value: object, expected: str) -> None:
    problem = only(problems(**{name: value}))
    assert (problem.pointer, problem.code, problem.value) == (f"/options/{name}", "option_value", value)
    assert problem.expected == expected


def test_an_alias_is_replaced_with_a_note() -> None:
    normal, notes = TOOLCHAIN.normalise(spec(options={"max_multimodal_len": 64}), FACTS, H100)
    assert normal.options["max_prompt_embedding_table_size"] == 64
    assert "max_multimodal_len" not in normal.options
    assert "other_name" in {note.code for note in notes}


def test_both_names_of_one_option_are_refused() -> None:
    problem = only(problems(max_multimodal_len=64, max_prompt_embedding_table_size=32))
    assert (problem.code, problem.remedy) == ("option_twice", "give only max_prompt_embedding_table_size")


def test_all_problems_of_options_are_reported_at_once() -> None:
    problem = problems(gemm_plugins="auto", fast_build=1, max_output_len=5)
    assert {problem.code for problem in problem} == {"unknown_option", "option_value", "former_option"}


def test_the_schema_accepts_its_own_defaults() -> None:
    validator = validator_of(SCHEMA)
    validator.check_schema(SCHEMA)
    defaults = {name: option.default for name, option in find_release(VERSION).options(LLAMA).items()}
    validator.validate(defaults)
    assert not set(defaults) & set(reserved_options())


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(find_release(VERSION).options(LLAMA))), JSON)
def test_the_schema_and_preflight_accept_the_same_values(name: str, value: Any) -> None:
    if name in switches_of_two_forms() and value in (True, False, "enable", "disable"):
        return  # normalization writes it as the release takes it
    valid = validator_of(SCHEMA).is_valid({name: value})
    refused = [p for p in problems(**{name: value}) if p.code == "option_value"]
    assert valid == (not refused)


@pytest.mark.parametrize("release", all_releases(), ids=lambda release: release.version)
def test_every_release_has_a_schema_whose_defaults_are_valid(release: ReleaseDescriptor) -> None:
    schema = TOOLCHAIN.options_schema(release.version)
    validator_of(schema).check_schema(schema)
    for option in schema["properties"].values():
        for alternative in option.get("anyOf", [option]):
            if "default" in alternative:
                validator_of(alternative).validate(alternative["default"])
    known = set(schema["properties"])
    assert not {
        name
        for name in known & set(reserved_options()) - recipe_option_names()
        if reserved_options()[name].only_with is None
    }
    # Scripts of other families may have what went from that of Llama.
    llama_options = {*release.build_options, *release.convert_options(LLAMA)}
    assert not {
        name
        for name in llama_options & set(former_options())
        if Version(former_options()[name].removed_in) <= Version(release.version)
    }


def test_a_remedy_names_an_option_that_exists() -> None:
    known = set(find_release(VERSION).options(LLAMA))
    targets = {entry.instead for entry in former_options().values()}
    targets |= {entry.instead for entry in reserved_options().values()}
    assert {t.removeprefix("/options/") for t in targets if t.startswith("/options/")} <= known


@pytest.mark.parametrize(
    ("version", "name", "code", "text"),
    [
        ("0.9.0", "user_buffer", "newer_option", "0.16.0"),
        ("0.9.0", "max_output_len", "reserved_option", "/limits/max_output_len"),
        ("0.11.0", "max_output_len", "reserved_option", "/limits/max_output_len"),
        ("0.12.0", "max_output_len", "former_option", "/limits/max_output_len"),
        ("0.12.0", "use_custom_all_reduce", "former_option", "when the engine runs"),
        ("0.12.0", "convert_model_on_cpu", "unknown_option", "only releases before and after it"),
        ("0.16.0", "chatglm_version", "unknown_option", "the conversion of LlamaForCausalLM"),
        ("1.2.1", "paged_kv_cache", "reserved_option", "/options/kv_cache_type"),
        ("1.2.1", "auto_parallel", "former_option", "1.2"),
        ("0.17.0", "cluster_key", "reserved_option", "/platform names the GPU remove it"),
    ],
)
def test_the_refusal_of_an_option_names_where_it_exists(version: str, name: str, code: str, text: str) -> None:
    requested = spec(version, options={name: "x"}, precision={"dtype": "float16"})
    problem = only([p for p in TOOLCHAIN.preflight(requested, FACTS, H100) if p.pointer == f"/options/{name}"])
    assert problem.code == code
    assert text in f"{problem.detail} {problem.remedy}"


@pytest.mark.parametrize(
    ("options", "quantization", "remedy"),
    [
        ({"paged_kv_cache": "on"}, None, "use /options/kv_cache_type: paged or continuous"),
        ({"paged_kv_cache": "disable", "kv_cache_type": "paged"}, None, "give only kv_cache_type"),
        ({"use_fp8": True}, "fp8", "remove it: /precision/quantization is fp8 already"),
        ({"qformat": "fp8"}, None, "use /precision/quantization: fp8"),
        ({"calib_dataset": "cnn"}, "fp8", "use /calibration"),
        ({"use_qserve": True}, None, "use /precision/quantization"),
        (
            {"quant_ckpt_path": "x.safetensors"},
            "int4_wo",
            f"use /model: {reserved_options()['quant_ckpt_path'].why}; or ask for one of these precisions",
        ),
        ({"calib_size": 32}, "int8_wo", "remove it, or ask for one of these precisions"),
        ({"awq_block_size": 64}, "fp8", "remove it, or ask for one of these precisions"),
    ],
)
def test_the_refusal_of_a_reserved_option_says_what_to_do_in_this_spec(
    options: dict[str, Any], quantization: str | None, remedy: str
) -> None:
    precision = {"dtype": "bfloat16", "quantization": quantization}
    requested = spec(options=options, precision=precision, calibration="file:/data" if quantization == "fp8" else None)
    normal, _ = TOOLCHAIN.normalise(requested, FACTS, H100)
    problem = only(list(TOOLCHAIN.preflight(normal, FACTS, H100)))
    assert (problem.code, problem.remedy) == ("reserved_option", remedy)


def test_an_option_of_other_precisions_names_them() -> None:
    precision = {"dtype": "bfloat16", "quantization": "fp8"}
    requested = spec("0.16.0", options={"awq_block_size": 64}, precision=precision, calibration="file:/data")
    problem = only(list(TOOLCHAIN.preflight(requested, FACTS, H100)))
    assert "quantization int4_awq, quantization w4a8_awq" in problem.detail


def test_options_of_a_refused_precision_are_not_refused_too() -> None:
    """No program of 0.8.0 is known to load weights of AWQ, and its quantize.py has the option."""
    facts = FACTS.model_copy(update={"quantization_config": {"quant_method": "awq", "bits": 4}})
    requested = spec("0.8.0", options={"awq_block_size": 128, "calib_size": 32})
    normal, _ = TOOLCHAIN.normalise(requested, facts, H100)
    assert {problem.code for problem in TOOLCHAIN.preflight(normal, facts, H100)} == {"quantized_model"}


def test_paged_kv_cache_is_an_option_where_nothing_replaced_it() -> None:
    assert "paged_kv_cache" in find_release("0.12.0").options(LLAMA)
    assert "paged_kv_cache" not in find_release("0.16.0").options(LLAMA)


@pytest.mark.parametrize("path", sorted(DATA.rglob("*.json")), ids=lambda path: path.name)
def test_every_data_file_states_its_source(path: Any) -> None:
    source = json.loads(path.read_bytes())["source"]
    assert {"repo", "path", "commit", "sure", "how"} <= set(source)
