"""A spec is refused with every problem at once, each with pointer, value, what was expected and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.spec import BuildSpec

MINIMAL: dict[str, Any] = {"model": "hf:org/name", "toolchain": {"name": "aoti"}}


def problems(change: dict[str, Any]) -> dict[str, Problem]:
    with pytest.raises(InvalidSpec) as caught:
        BuildSpec.parse(MINIMAL | change)
    return {problem.pointer: problem for problem in caught.value.problems}


def test_defaults() -> None:
    spec = BuildSpec.parse(MINIMAL)
    assert spec.limits.model_dump() == {
        "max_batch_size": 1, "max_input_len": 1024, "max_output_len": 1024, "max_seq_len": 2048, "max_beam_width": 1,
        "max_num_tokens": None, "opt_num_tokens": None,
    }  # fmt: skip
    assert spec.precision.dtype == "auto"


def test_all_problems_are_reported_at_once() -> None:
    found = problems({"limitz": {}, "limits": {"max_batch_size": 0, "max_input_len": "5"}, "parallelism": {"tp": 1.5}})
    assert set(found) == {"/limitz", "/limits/max_batch_size", "/limits/max_input_len", "/parallelism/tp"}


def test_an_unknown_field_says_what_to_do() -> None:
    problem = problems({"limits": {"max_batchsize": 4}})["/limits/max_batchsize"]
    assert problem.code == "extra_forbidden"
    assert problem.value == 4
    assert problem.remedy is not None
    assert "spelling" in problem.remedy


@pytest.mark.parametrize("value", [-1, 0, 1 << 40])
def test_numbers_are_bounded(value: int) -> None:
    problem = problems({"limits": {"max_input_len": value}})["/limits/max_input_len"]
    assert problem.value == value
    assert problem.expected is not None


@pytest.mark.parametrize("value", [True, "4", 4.0, None])
def test_a_number_is_a_number(value: object) -> None:
    assert "/limits/max_batch_size" in problems({"limits": {"max_batch_size": value}})


def test_disagreeing_lengths_show_the_sum() -> None:
    problem = problems({"limits": {"max_input_len": 5, "max_output_len": 5, "max_seq_len": 11}})["/limits"]
    assert problem.code == "lengths_disagree"
    assert "5 + max_output_len 5 = 10, but max_seq_len is 11" in problem.detail
    assert problem.expected == "max_seq_len 10, or only one of max_output_len and max_seq_len"


def test_a_sequence_without_room_for_output_is_refused() -> None:
    assert problems({"limits": {"max_input_len": 8, "max_seq_len": 8}})["/limits"].code == "lengths_disagree"


def test_agreeing_lengths_are_accepted() -> None:
    spec = BuildSpec.parse(MINIMAL | {"limits": {"max_input_len": 5, "max_output_len": 6, "max_seq_len": 11}})
    assert spec.limits.seq_len == 11


@pytest.mark.parametrize(("alias", "meant"), [("bf16", "bfloat16"), ("half", "float16"), ("FP32", "float32")])
def test_dtype_aliases(alias: str, meant: str) -> None:
    assert BuildSpec.parse(MINIMAL | {"precision": {"dtype": alias}}).precision.dtype == meant


def test_none_means_null() -> None:
    spec = BuildSpec.parse(MINIMAL | {"precision": {"quantization": "none", "kv_cache": "auto"}})
    assert spec.precision.quantization is None
    assert spec.precision.kv_cache is None


@pytest.mark.parametrize("sm", ["90", "9.0", "sm_90", "SM90"])
def test_spellings_of_a_compute_capability(sm: str) -> None:
    assert BuildSpec.parse(MINIMAL | {"platform": {"gpu": "X", "sm": sm}}).platform.sm == "90"


def test_a_platform_of_cpu_and_gpu_is_refused() -> None:
    assert "/platform" in problems({"platform": {"gpu": "X", "cpu_isa": "x86-64-v3"}})


@pytest.mark.parametrize("model", ["llama", "hf:llama", "file:relative", "ftp://x/y", "", "file:/a/../b"])
def test_a_bad_model_reference_names_the_accepted_forms(model: str) -> None:
    assert "hf:org/name" in problems({"model": model})["/model"].detail


@pytest.mark.parametrize("body", [None, 3, "x", [], True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidSpec):
        BuildSpec.parse(body)


def test_long_values_are_not_echoed_whole() -> None:
    problem = problems({"toolchain": {"name": "x" * 5000}})["/toolchain/name"]
    assert len(problem.detail) < 600


def test_disagreeing_lengths_hide_no_other_problem() -> None:
    lengths = {"max_input_len": 5, "max_output_len": 5, "max_seq_len": 11}
    found = problems({"limits": lengths | {"max_batch_size": -1, "max_bean_width": 2}})
    assert set(found) == {"/limits", "/limits/max_batch_size", "/limits/max_bean_width"}
    assert found["/limits"].code == "lengths_disagree"
    assert found["/limits/max_batch_size"].expected == "≥ 1"


@pytest.mark.parametrize(
    ("value", "said", "echo"),
    [
        (-1, "got -1", -1), ("-1", "got '-1'", "-1"), (True, "got true", True), (float("nan"), "got nan", "nan"),
        (10**400, "got 1000", "1" + "0" * 199 + "…"), ("\ud800", "got '", "\\ud800"),
    ],
)  # fmt: skip
def test_a_value_is_quoted_as_what_it_is(value: object, said: str, echo: object) -> None:
    problem = problems({"limits": {"max_batch_size": value}})["/limits/max_batch_size"]
    assert said in problem.detail
    assert problem.value == echo
    assert len(problem.detail) < 600
