"""How a spec comes from a file and flags; what happens to it then is in test_program."""

from __future__ import annotations

from typing import Any

import click
import pytest

from enginefarm.cli.commands.submit import submit
from enginefarm.cli.spec import with_flags
from enginefarm.contract.spec import BuildSpec


def flags(*args: str) -> dict[str, Any]:
    """What click makes of `args`."""
    with submit.make_context("submit", list(args)) as context:
        return context.params


def test_every_field_of_a_spec_has_a_flag() -> None:
    given = flags(
        *("--model", "hf:a/b", "--toolchain", "trtllm@1.2.1", "--calibration", "file:/data/set"),
        *("--dtype", "bf16", "--quantization", "fp8", "--kv-cache", "int8", "--tp", "2", "--pp", "3", "--cp", "4"),
        *("--max-batch-size", "5", "--max-input-len", "6", "--max-output-len", "7", "--max-seq-len", "13"),
        *("--max-beam-width", "9", "--max-num-tokens", "10", "--opt-num-tokens", "11"),
        *("--option", "gemm_plugin=auto", "--option", "paged=true", "--option", "sizes=[1, 2]"),
        *(
            "--platform",
            "sm=90",
            "--platform",
            "cuda=13.0",
            "--platform",
            "gpu_memory_gib=80",
            "--platform",
            "ecc=true",
        ),
    )

    spec = with_flags({}, given)

    assert spec == {
        "model": "hf:a/b",
        "calibration": "file:/data/set",
        "toolchain": {"name": "trtllm", "version": "1.2.1"},
        "precision": {"dtype": "bf16", "quantization": "fp8", "kv_cache": "int8"},
        "parallelism": {"tp": 2, "pp": 3, "cp": 4},
        "limits": {
            "max_batch_size": 5, "max_input_len": 6, "max_output_len": 7, "max_seq_len": 13,
            "max_beam_width": 9, "max_num_tokens": 10, "opt_num_tokens": 11,
        },
        "options": {"gemm_plugin": "auto", "paged": True, "sizes": [1, 2]},
        "platform": {"sm": "90", "cuda": "13.0", "gpu_memory_gib": "80", "ecc": "true"},
    }  # fmt: skip
    parsed = BuildSpec.parse(spec)
    assert set(spec) == set(BuildSpec.model_fields)
    for section in ("precision", "parallelism", "limits"):
        assert set(spec[section]) == set(type(getattr(parsed, section)).model_fields), "a new field needs a flag"
    assert (parsed.platform.gpu_memory_gib, parsed.platform.ecc) == (80, True)


def test_flags_override_the_file_field_by_field() -> None:
    file = {
        "model": "hf:a/b", "toolchain": {"name": "aoti", "version": "2.13.0"},
        "limits": {"max_batch_size": 8, "max_input_len": 128}, "options": {"a": 1, "b": 2},
    }  # fmt: skip

    spec = with_flags(file, flags("--max-batch-size", "1", "--option", "b=3", "--toolchain", "trtllm"))

    assert spec["limits"] == {"max_batch_size": 1, "max_input_len": 128}
    assert spec["options"] == {"a": 1, "b": 3}
    assert spec["toolchain"] == {"name": "trtllm"}, "the version was the other toolchain's"
    assert file["limits"] == {"max_batch_size": 8, "max_input_len": 128}


def test_a_flag_for_a_length_replaces_both_lengths_of_the_file() -> None:
    file = {"limits": {"max_input_len": 100, "max_seq_len": 200}}

    assert with_flags(file, flags("--max-output-len", "50"))["limits"] == {"max_input_len": 100, "max_output_len": 50}


@pytest.mark.parametrize("file", [{"limits": 5}, {"options": "all"}])
def test_a_section_that_is_no_object_is_left_to_the_validation(file: dict[str, Any]) -> None:
    assert with_flags(file, flags("--max-batch-size", "1", "--option", "a=1")).items() >= file.items()


@pytest.mark.parametrize("option", [("--option", "gemm_plugin"), ("--platform", "=90")])
def test_an_option_without_a_value_is_a_usage_error(option: tuple[str, str]) -> None:
    with pytest.raises(click.UsageError, match="expected NAME=VALUE"):
        with_flags({}, flags(*option))
