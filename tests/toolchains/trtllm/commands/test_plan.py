"""The commands of each stage are the ones that the release's programs accept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles.option_parser import build_parser, convert_parser, refit_parser
from tests.toolchains.trtllm.build_contexts import FACTS, H100, LLAMA, VERSION, each_program, facts, spec, specs
from toolchains.toolchain import Directories
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.releases.model_family import family_names
from toolchains.trtllm.releases.release import all_releases, find_release
from toolchains.trtllm.toolchain import TensorRTLLM

TRTLLM = TensorRTLLM(lambda: Installation(Path("/examples")))
DIRECTORIES = Directories(Path("/source"), Path("/output"), Path("/scratch"))
SPECS_OF_EACH = 20
ENCODER_DECODERS = {f"{name}ForConditionalGeneration" for name in ("T5", "MT5", "Bart", "MBart", "Whisper")}
VERSIONS = [release.version for release in TOOLCHAIN.releases()]


def commands(
    stage: Stage, requested: BuildSpec, version: str = VERSION, architecture: str = LLAMA
) -> list[tuple[str, ...]]:
    model = facts(architecture=architecture)
    normal, _ = TRTLLM.normalise(requested, model, H100)
    return planned(stage, normal, model)


def planned(stage: Stage, normal: BuildSpec, model: ModelFacts) -> list[tuple[str, ...]]:
    version = normal.toolchain.version or ""
    job = Job(stage=stage, toolchain="trtllm", version=version, spec=normal, facts=model, platform=H100)
    return [command.argv for command in TRTLLM.plan(job, DIRECTORIES)]


def one_line(argv: tuple[str, ...]) -> str:
    return " ".join(argv)


CACHE = "--input_timing_cache /scratch/model.cache --output_timing_cache /scratch/model.cache"
CONVERT = "--model_dir /source --output_dir /output --dtype bfloat16"
SHAPE = "--max_batch_size 32 --max_input_len 4096 --max_seq_len 5120"
SEED_BUILDS = {
    "0.8.0": "--bert_attention_plugin bfloat16 --gpt_attention_plugin bfloat16 --gemm_plugin bfloat16 "
    "--max_batch_size 32 --max_input_len 4096 --max_output_len 1024 --timing_cache /scratch/model.cache",
    "0.9.0": "--bert_attention_plugin bfloat16 --gpt_attention_plugin bfloat16 --gemm_plugin bfloat16 "
    "--moe_plugin bfloat16 --mamba_conv1d_plugin bfloat16 "
    f"--max_batch_size 32 --max_input_len 4096 --max_output_len 1024 {CACHE}",
    "0.10.0": "--bert_attention_plugin bfloat16 --gpt_attention_plugin bfloat16 --gemm_plugin bfloat16 "
    "--nccl_plugin bfloat16 --moe_plugin bfloat16 --mamba_conv1d_plugin bfloat16 "
    f"--max_batch_size 32 --max_input_len 4096 --max_output_len 1024 {CACHE}",
    "0.11.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    "0.12.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    "0.13.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    "0.14.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    "0.15.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    "0.16.0": f"--gemm_plugin auto {SHAPE} {CACHE}",
    # Between 0.16 and mid 2025 some defaults changed, so their values are written.
    **dict.fromkeys(
        ("0.17.0", "0.17.0.post1", "0.18.0", "0.18.1", "0.18.2", "0.19.0"),
        "--gemm_plugin auto --tokens_per_block 64 --use_paged_context_fmha disable --use_fp8_context_fmha disable "
        f"{SHAPE} {CACHE}",
    ),
}
SEED_BUILD_SINCE_0_20 = f"--gemm_plugin auto {SHAPE} {CACHE}"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_seed_spec_converts_with_this_command(version: str) -> None:
    convert, carry = commands(Stage.CONVERT, spec(version), version)
    moved = tuple(map(int, version.split(".")[:2])) >= (0, 20)
    script = f"/examples/{'models/core/' if moved else ''}llama/convert_checkpoint.py"
    assert one_line(convert) == f"python3 {script} {CONVERT}"
    assert carry[:2] == (sys.executable, "-I")
    assert Path(carry[2]).is_file()
    assert carry[3:] == ("/source", "/output")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_seed_spec_builds_with_this_command(version: str) -> None:
    build, carry = commands(Stage.BUILD, spec(version), version)
    golden = SEED_BUILDS.get(version, SEED_BUILD_SINCE_0_20)
    assert one_line(build) == f"trtllm-build --checkpoint_dir /source --output_dir /output {golden}"
    assert carry[3:] == ("/source", "/output")


def test_gemma_has_option_names_of_its_own() -> None:
    convert = commands(Stage.CONVERT, spec("0.16.0", parallelism={"tp": 2}), "0.16.0", "Gemma2ForCausalLM")[0]
    assert one_line(convert) == (
        "python3 /examples/gemma/convert_checkpoint.py --ckpt-type hf --model-dir /source "
        "--output-model-dir /output --dtype bfloat16 --world-size 2"
    )


def test_parallelism_is_written_only_for_the_conversion() -> None:
    requested = spec(parallelism={"tp": 4, "pp": 2, "cp": 2})
    convert, _ = commands(Stage.CONVERT, requested)
    build, _ = commands(Stage.BUILD, requested)
    assert convert[-6:] == ("--tp_size", "4", "--pp_size", "2", "--cp_size", "2")
    assert not {"--tp_size", "--pp_size", "--cp_size"} & set(build)


def test_each_stage_gets_its_own_options() -> None:
    requested = spec(
        options={"load_by_shard": True, "tokens_per_block": 64, "lora_target_modules": ["attn_q", "attn_v"]}
    )
    convert, _ = commands(Stage.CONVERT, requested)
    build, _ = commands(Stage.BUILD, requested)
    assert "--load_by_shard" in convert
    assert "--load_by_shard" not in build
    assert "--tokens_per_block" not in convert
    assert build[build.index("--lora_target_modules") :][:3] == ("--lora_target_modules", "attn_q", "attn_v")
    assert build[build.index("--tokens_per_block") :][:2] == ("--tokens_per_block", "64")


def test_limits_are_written_if_the_program_would_choose_others() -> None:
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


@pytest.mark.parametrize(("gpus", "workers"), [(0, None), (1, None), (2, "2"), (8, "4")])
def test_as_many_ranks_are_built_at_once_as_there_are_gpus(gpus: int, workers: str | None) -> None:
    toolchain = TensorRTLLM(lambda: Installation(Path("/examples"), gpus=gpus))
    normal, _ = toolchain.normalise(spec(parallelism={"tp": 4}), FACTS, H100)
    job = Job(stage=Stage.BUILD, toolchain="trtllm", version=VERSION, spec=normal, facts=FACTS, platform=H100)
    build = toolchain.plan(job, DIRECTORIES)[0].argv
    assert (build[build.index("--workers") + 1] if "--workers" in build else None) == workers


@pytest.mark.parametrize("version", [version for version in VERSIONS if find_release(version).refit])
def test_weights_are_added_to_a_stripped_engine(version: str) -> None:
    strip, refit, carry = commands(Stage.BUILD, spec(version, options={"strip_plan": True}), version)
    assert strip[:5] == ("trtllm-build", "--checkpoint_dir", "/source", "--output_dir", "/scratch/stripped")
    assert "--strip_plan" in strip
    assert one_line(refit) == (
        "trtllm-refit --checkpoint_dir /source --engine_dir /scratch/stripped --output_dir /output"
    )
    assert refit_parser(version).parse_args(refit[1:])
    assert carry[3:] == ("/source", "/output")


def test_every_release_that_strips_engines_refits_them() -> None:
    strips = {version for version in VERSIONS if "strip_plan" in find_release(version).build_options}
    assert strips == {version for version in VERSIONS if find_release(version).refit} == set(VERSIONS) - {
        "0.8.0", "0.9.0",
    }  # fmt: skip


def test_programs_fetch_nothing_and_keep_caches_in_scratch() -> None:
    job = Job(stage=Stage.BUILD, toolchain="trtllm", version=VERSION, spec=spec(), facts=FACTS, platform=H100)
    assert TRTLLM.plan(job, DIRECTORIES)[0].environment == {"HOME": "/scratch", "HF_HUB_OFFLINE": "1"}


def test_every_release_and_family_is_among_thousands_of_specs() -> None:
    pairs = {
        (release.build, kind, script)
        for release in all_releases()
        for kind, script in (*release.convert.items(), *release.draft.items())
    }
    assert len(each_program()) == len(pairs)
    assert len(pairs) * SPECS_OF_EACH >= 5000


@pytest.mark.parametrize(("version", "architecture", "draft"), each_program())
@settings(max_examples=SPECS_OF_EACH, deadline=None)
@given(data=st.data())
def test_every_plan_is_what_the_programs_accept(
    version: str, architecture: str, draft: str | None, data: st.DataObject
) -> None:
    """argparse reads back the values of the normalized spec, for each option and limit, in every release and family.

    Twenty specs for each of some three hundred and fifty pairs of programs: seven thousand in all.
    """
    requested = data.draw(specs(version, architecture, draft))
    model = facts(architecture=architecture)
    normal, _ = TRTLLM.normalise(requested, model, H100)
    converts = [argv for argv in planned(Stage.CONVERT, normal, model) if argv[1].startswith("/examples")]
    builds = [argv for argv in planned(Stage.BUILD, normal, model) if argv[0] == "trtllm-build"]
    scripts = (family_names()[architecture], draft or family_names()[architecture])[-len(converts) :]
    read_convert: dict[str, Any] = {}
    for script, convert in zip(scripts, converts, strict=True):
        read_convert = vars(convert_parser(version, script).parse_args(convert[2:])) | read_convert
    _assert_sizes(read_convert, normal)
    assert read_convert["dtype"] == normal.precision.dtype
    folders = ("encoder", "decoder") if architecture in ENCODER_DECODERS else ("",)
    for build, folder in zip(builds, folders, strict=True):
        read_build = vars(build_parser(version).parse_args(build[1:]))
        for name, value in normal.options.items():
            read = (read_convert if name in TRTLLM.convert_options else read_build)[name]
            expected = value
            fixed = {"kv_cache_type": "disabled", "paged_kv_cache": "disable"}
            if "Whisper" in architecture:
                fixed = {"gemm_plugin": "disable"}
            if folder == "encoder":
                expected = fixed.get(name, value)
            assert read == expected or (expected, read) == ("auto", normal.precision.dtype)
        start = 14 if "Whisper" in architecture else 1
        _assert_part(read_build, normal, folder, start) if folder else _assert_limits(read_build, normal)


def _assert_sizes(read: dict[str, Any], normal: BuildSpec) -> None:
    sizes = normal.parallelism
    assert read.get("tp_size", read.get("world_size", 1)) == sizes.tp
    assert (read.get("pp_size", 1), read.get("cp_size", 1)) == (sizes.pp, sizes.cp)


def _assert_limits(read: dict[str, Any], normal: BuildSpec) -> None:
    sizes = normal.limits.model_dump(exclude={"max_output_len", "max_seq_len", "max_num_tokens", "opt_num_tokens"})
    assert {name: read[name] for name in sizes} == sizes
    # Before 0.11 the program itself takes the largest packed input if the option is left out.
    unset = normal.limits.max_batch_size * normal.limits.max_input_len if normal.limits.max_num_tokens else None
    assert (read["max_num_tokens"] or unset) == normal.limits.max_num_tokens
    total, output = normal.limits.seq_len, normal.limits.max_output_len
    assert read["max_seq_len"] == total if "max_seq_len" in read else read["max_output_len"] == output
    sequences = normal.limits.max_batch_size * normal.limits.max_beam_width
    derived = min(sequences, normal.limits.max_num_tokens or sequences)
    assert normal.limits.opt_num_tokens in (read.get("opt_num_tokens"), derived)


def _assert_part(read: dict[str, Any], normal: BuildSpec, folder: str, start: int) -> None:
    """`start`: the tokens with which the decoder begins."""
    limits = normal.limits
    assert (read["max_batch_size"], read["max_beam_width"]) == (limits.max_batch_size, limits.max_beam_width)
    # Before 0.11 both programs take the length of the output in place of a total.
    if "max_seq_len" not in read:
        assert read["max_output_len"] == limits.max_output_len
        assert read["max_input_len"] == (start if folder == "decoder" else limits.max_input_len)
        return
    if folder == "decoder":
        assert (read["max_input_len"], read["max_seq_len"]) == (start, (limits.max_output_len or 0) + start)
        assert (read["max_encoder_input_len"], read["max_num_tokens"]) == (limits.max_input_len, 8192)
        return
    assert read["max_input_len"] == read["max_seq_len"] == limits.max_input_len
    assert read["max_num_tokens"] == limits.max_num_tokens
    sequences = limits.max_batch_size * limits.max_beam_width
    assert limits.opt_num_tokens in (read["opt_num_tokens"], min(sequences, limits.max_num_tokens or sequences))


def test_options_of_another_architecture_use_its_own_script() -> None:
    job = Job(
        stage=Stage.CONVERT, toolchain="trtllm", version=VERSION, spec=spec(),
        facts=facts(architecture="MixtralForCausalLM", num_experts=8), platform=None,
    )  # fmt: skip
    assert TRTLLM.plan(job, DIRECTORIES)[0].argv[1].endswith("/llama/convert_checkpoint.py")
