from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from enginefarm.spec import BuildSpec
from enginefarm.wire import Stage
from tests.doubles.option_parser import build_parser, convert_parser
from tests.toolchains.trtllm.cases import FACTS, H100, VERSION, facts, spec, specs
from toolchains.toolchain import Directories, Job
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.compiler import TensorRTLLM
from toolchains.trtllm.installation import Installation

HERE = TensorRTLLM(lambda: Installation(Path("/examples")))
DIRECTORIES = Directories(Path("/source"), Path("/output"), Path("/scratch"))
VERSIONS = [release.version for release in TOOLCHAIN.releases()]


def commands(stage: Stage, wanted: BuildSpec, version: str = VERSION) -> list[tuple[str, ...]]:
    normal, _ = HERE.normalise(wanted, FACTS, H100)
    job = Job(stage=stage, toolchain="trtllm", version=version, spec=normal, facts=FACTS, platform=H100)
    return [command.argv for command in HERE.plan(job, DIRECTORIES)]


@pytest.mark.parametrize("version", VERSIONS)
def test_seed_convert(version: str) -> None:
    convert, carry = commands(Stage.CONVERT, spec(version), version)
    assert convert == (
        "python3", "/examples/models/core/llama/convert_checkpoint.py",
        "--model_dir", "/source", "--output_dir", "/output", "--dtype", "bfloat16",
    )  # fmt: skip
    assert carry[:2] == (sys.executable, "-I")
    assert Path(carry[2]).is_file()
    assert carry[3:] == ("/source", "/output")


@pytest.mark.parametrize("version", VERSIONS)
def test_seed_build(version: str) -> None:
    build, carry = commands(Stage.BUILD, spec(version), version)
    assert build == (
        "trtllm-build", "--checkpoint_dir", "/source", "--output_dir", "/output", "--gemm_plugin", "auto",
        "--max_batch_size", "32", "--max_input_len", "4096", "--max_seq_len", "5120",
        "--output_timing_cache", "/scratch/model.cache",
    )  # fmt: skip
    assert carry[3:] == ("/source", "/output")


def test_parallelism_is_the_conversions_alone() -> None:
    wanted = spec(parallelism={"tp": 4, "pp": 2, "cp": 2})
    (convert, _), (build, _) = commands(Stage.CONVERT, wanted), commands(Stage.BUILD, wanted)
    assert convert[-6:] == ("--tp_size", "4", "--pp_size", "2", "--cp_size", "2")
    assert not {"--tp_size", "--pp_size", "--cp_size"} & set(build)


def test_each_stage_gets_its_own_options() -> None:
    wanted = spec(options={"load_by_shard": True, "tokens_per_block": 64, "lora_target_modules": ["attn_q", "attn_v"]})
    (convert, _), (build, _) = commands(Stage.CONVERT, wanted), commands(Stage.BUILD, wanted)
    assert "--load_by_shard" in convert
    assert "--load_by_shard" not in build
    assert "--tokens_per_block" not in convert
    assert build[build.index("--lora_target_modules") :][:3] == ("--lora_target_modules", "attn_q", "attn_v")
    assert build[build.index("--tokens_per_block") :][:2] == ("--tokens_per_block", "64")


def test_limits_that_the_program_would_not_take_by_itself_are_written() -> None:
    limits = {
        "max_batch_size": 8,
        "max_input_len": 64,
        "max_output_len": 64,
        "max_beam_width": 2,
        "opt_num_tokens": 100,
    }
    (build, _) = commands(Stage.BUILD, spec(limits=limits))
    assert build[build.index("--max_beam_width") :][:6] == (
        *("--max_beam_width", "2"),
        *("--max_num_tokens", "1024"),  # 8 × 128: the default of 8192 can never be in flight
        *("--opt_num_tokens", "100"),
    )


def test_nothing_is_fetched_and_caches_stay_in_scratch() -> None:
    job = Job(stage=Stage.BUILD, toolchain="trtllm", version=VERSION, spec=spec(), facts=FACTS, platform=H100)
    assert HERE.plan(job, DIRECTORIES)[0].environment == {"HOME": "/scratch", "HF_HUB_OFFLINE": "1"}


@settings(max_examples=300, deadline=None)
@given(specs())
def test_every_plan_is_what_the_programs_accept(wanted: BuildSpec) -> None:
    """argparse reads back what the normalised spec says, for each option and limit."""
    normal, _ = HERE.normalise(wanted, FACTS, H100)
    (convert, _), (build, _) = commands(Stage.CONVERT, wanted), commands(Stage.BUILD, wanted)
    read_convert = vars(convert_parser(VERSION, "llama").parse_args(convert[2:]))
    read_build = vars(build_parser(VERSION).parse_args(build[1:]))
    for name, value in normal.options.items():
        assert (read_convert if name in HERE.convert_options else read_build)[name] == value
    sizes = normal.parallelism
    assert [read_convert[f"{name}_size"] for name in ("tp", "pp", "cp")] == [sizes.tp, sizes.pp, sizes.cp]
    assert read_convert["dtype"] == normal.precision.dtype
    _assert_limits(read_build, normal)


def _assert_limits(read: dict[str, Any], normal: BuildSpec) -> None:
    asked = normal.limits.model_dump(exclude={"max_output_len", "opt_num_tokens"})
    assert {name: read[name] for name in asked} == asked
    derived = min(normal.limits.max_batch_size * normal.limits.max_beam_width, normal.limits.max_num_tokens or 0)
    assert normal.limits.opt_num_tokens in (read["opt_num_tokens"], derived)


def test_options_of_another_architecture_use_its_own_script() -> None:
    job = Job(
        stage=Stage.CONVERT, toolchain="trtllm", version=VERSION, spec=spec(),
        facts=facts(architecture="MixtralForCausalLM", num_experts=8), platform=None,
    )  # fmt: skip
    assert HERE.plan(job, DIRECTORIES)[0].argv[1].endswith("/llama/convert_checkpoint.py")
