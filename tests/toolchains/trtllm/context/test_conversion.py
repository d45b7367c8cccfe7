"""Which program makes a precision, in which release, of which family: only what their option tables accept."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec, Parallelism, Precision
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.doubles.option_parser import convert_parser, quantize_parser
from tests.toolchains.trtllm.build_contexts import H100, LLAMA, facts, spec
from toolchains.toolchain import Directories
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.model_family import family_names
from toolchains.trtllm.releases.precision_recipe import recipe_table
from toolchains.trtllm.releases.release import all_releases, find_release
from toolchains.trtllm.toolchain import TensorRTLLM

HERE = TensorRTLLM(lambda: Installation(Path("/examples")))
DIRECTORIES = Directories(Path("/source"), Path("/output"), Path("/scratch"), {"calibration": Path("/calibration")})
DATA = "file:/data/cnn"
GEMMA, QWEN, FALCON, PHI = "GemmaForCausalLM", "QWenLMHeadModel", "FalconForCausalLM", "PhiForCausalLM"
MODELOPT_FP8 = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
MODELOPT_NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4",
                  "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}}  # fmt: skip
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def spec_with(version: str, quantization: str | None, kv_cache: str | None = None, **fields: Any) -> BuildSpec:
    precision = {"dtype": "bfloat16", "quantization": quantization, "kv_cache": kv_cache}
    return spec(version, **{"precision": precision, "options": {}} | fields)


def convert(requested: BuildSpec, model: ModelFacts) -> str:
    normal, _ = HERE.normalise(requested, model, H100)
    version = requested.toolchain.version or ""
    job = Job(stage=Stage.CONVERT, toolchain="trtllm", version=version, spec=normal, facts=model, platform=None)
    commands = [" ".join(command.argv) for command in HERE.plan(job, DIRECTORIES)]
    (command,) = [
        command for command in commands if command.startswith("python3 /examples")
    ]  # the others are the farm's own
    return command


def find_problems(requested: BuildSpec, model: ModelFacts) -> list[Problem]:
    """What no program is proven to make. What this GPU or the documentation rules out is tested with the rules."""
    normal, _ = HERE.normalise(requested, model, H100)
    problems = HERE.preflight(normal, model, H100)
    return [problem for problem in problems if problem.code not in ("nvfp4_sm", "nvfp4_model", "precision_model")]


LLAMA_016 = "python3 /examples/llama/convert_checkpoint.py --model_dir /source --output_dir /output --dtype bfloat16"
GEMMA_016 = "python3 /examples/gemma/convert_checkpoint.py --ckpt-type hf"
GEMMA_DIRS = "--model-dir /source --output-model-dir /output --dtype bfloat16"
DATA_DIR = "--calib_dataset /scratch/ccdv/cnn_dailymail"
QUANTIZE = "python3 /examples/quantization/quantize.py"
DIRS = "--model_dir /source --output_dir /output --dtype bfloat16"
CALIBRATED = f"{DIRS} --calib_dataset /calibration"
SMOOTH, INT4 = ({"dtype": "bfloat16", "quantization": word} for word in ("int8_sq", "int4_wo"))
INT8_CACHE = {"dtype": "bfloat16", "kv_cache": "int8"}


@pytest.mark.parametrize(
    ("version", "architecture", "quantization", "kv_cache", "command"),
    [
        ("0.16.0", LLAMA, "int8_wo", None, LLAMA_016.replace("--model_dir", "--use_weight_only --model_dir")),
        (
            "0.16.0", LLAMA, "int4_wo", None,
            LLAMA_016.replace("--model_dir", "--use_weight_only --weight_only_precision int4 --model_dir"),
        ),
        (
            "0.10.0", GEMMA, "int4_wo", None,
            f"{GEMMA_016} --use-weight-only-with-precision int4 {GEMMA_DIRS}",
        ),
        ("0.16.0", LLAMA, "int8_sq", None, f"{LLAMA_016} {DATA_DIR} --smoothquant 0.5"),
        (
            "0.16.0", LLAMA, "int8_wo", "int8",
            LLAMA_016.replace("--model_dir", "--use_weight_only --int8_kv_cache --model_dir")
            + f" {DATA_DIR}",
        ),
        ("0.16.0", LLAMA, "fp8_rowwise", None, LLAMA_016.replace("--model_dir", "--use_fp8_rowwise --model_dir")),
        ("0.16.0", LLAMA, "fp8", None, f"{QUANTIZE} --qformat fp8 {CALIBRATED}"),
        ("0.16.0", LLAMA, "fp8", "fp8", f"{QUANTIZE} --qformat fp8 --kv_cache_dtype fp8 {CALIBRATED}"),
        ("0.16.0", LLAMA, None, "fp8", f"{QUANTIZE} --kv_cache_dtype fp8 {CALIBRATED}"),
        ("0.10.0", LLAMA, "int4_awq", None, f"{QUANTIZE} --qformat int4_awq {CALIBRATED}"),
        ("0.13.0", LLAMA, "w4a8_awq", "int8", f"{QUANTIZE} --qformat w4a8_awq --kv_cache_dtype int8 {CALIBRATED}"),
        ("1.2.1", LLAMA, "nvfp4", "fp8", f"{QUANTIZE} --qformat nvfp4 --kv_cache_dtype fp8 {CALIBRATED}"),
    ],
)  # fmt: skip
def test_a_precision_is_made_by_its_command(
    version: str, architecture: str, quantization: str, kv_cache: str, command: str
) -> None:
    calibration = DATA if "--calib_dataset" in command else None
    requested = spec_with(version, quantization, kv_cache, calibration=calibration)
    assert convert(requested, facts(architecture=architecture)) == command
    assert not find_problems(requested, facts(architecture=architecture))


@pytest.mark.parametrize(
    ("version", "architecture", "fields", "program", "arguments"),
    [
        (
            "0.9.0", "BloomForCausalLM", {"parallelism": {"tp": 2}}, "bloom",
            f"{DIRS} --tp_size 2",
        ),
        (
            "0.13.0", "BloomForCausalLM", {"precision": SMOOTH, "calibration": DATA}, "bloom",
            f"{DIRS} --calib_dataset /scratch/lambada --smoothquant 0.5",
        ),
        (
            "0.16.0", "MPTForCausalLM", {"precision": INT8_CACHE, "calibration": DATA}, "mpt",
            f"--calibrate_kv_cache {DIRS} {DATA_DIR}",
        ),
        (
            "1.2.1", "BaichuanForCausalLM", {"options": {"model_version": "v2_7b"}}, "models/contrib/baichuan",
            f"{DIRS} --model_version v2_7b",
        ),
        (
            "1.0.0", "BaichuanForCausalLM", {"options": {"model_version": "v1_13b"}}, "models/contrib/baichuan",
            f"{DIRS} --model_version v1_13b",
        ),
        (
            "0.20.0", "RecurrentGemmaForCausalLM", {"parallelism": {"tp": 2}}, "models/core/recurrentgemma",
            f"--ckpt_type hf {DIRS} --world_size 2",
        ),
        ("0.15.0", "GPTJForCausalLM", {"parallelism": {"tp": 2, "pp": 2}}, "gptj", f"{DIRS} --tp_size 2 --pp_size 2"),
        ("0.13.0", "MambaForCausalLM", {}, "mamba", DIRS),
        ("1.2.1", "MambaForCausalLM", {}, "models/core/mamba", DIRS),
        (
            "0.19.0", "OPTForCausalLM", {"precision": INT4}, "opt",
            f"--use_weight_only --weight_only_precision int4 {DIRS}",
        ),
        (
            "1.3.0rc20", "GLMModel", {"parallelism": {"tp": 2, "cp": 2}}, "models/core/glm-4-9b",
            f"{DIRS} --tp_size 2 --cp_size 2 --chatglm_version glm",
        ),
        (
            "0.12.0", "DbrxForCausalLM", {"parallelism": {"tp": 2}, "options": {"moe_ep_size": 2}}, "dbrx",
            f"{DIRS} --tp_size 2 --moe_tp_size 1 --moe_ep_size 2",
        ),
        ("0.16.0", "CogVLMForCausalLM", {}, "cogvlm", DIRS),
        ("1.1.0", "GPTNeoXForCausalLM", {"parallelism": {"tp": 2}}, "models/contrib/gptneox", f"{DIRS} --tp_size 2"),
    ],
)  # fmt: skip
def test_a_family_is_converted_by_its_own_command(
    version: str, architecture: str, fields: dict[str, Any], program: str, arguments: str
) -> None:
    experts = 16 if "moe_ep_size" in fields.get("options", {}) else None
    requested, model = spec_with(version, None, **fields), facts(architecture=architecture, num_experts=experts)
    assert convert(requested, model) == f"python3 /examples/{program}/convert_checkpoint.py {arguments}"
    assert not find_problems(requested, model)


def test_auto_quantize_requires_formats_and_bits() -> None:
    requested = spec_with("0.16.0", "auto_quantize", calibration=DATA)
    assert {problem.pointer for problem in find_problems(requested, facts())} == {
        "/options/autoq_format",
        "/options/auto_quantize_bits",
    }
    options = {"autoq_format": "fp8,int4_awq", "auto_quantize_bits": 6.0}
    command = convert(spec_with("0.16.0", "auto_quantize", calibration=DATA, options=options), facts())
    assert command == f"{QUANTIZE} {CALIBRATED} --autoq_format fp8,int4_awq --auto_quantize_bits 6.0"


def test_a_callers_option_replaces_the_recipes_argument() -> None:
    options = {"smoothquant": 0.8, "per_channel": True, "calib_size": 64}
    command = convert(spec_with("0.16.0", "int8_sq", calibration=DATA, options=options), facts())
    assert command.endswith(f"{DATA_DIR} --calib_size 64 --smoothquant 0.8 --per_channel")


@pytest.mark.parametrize(
    ("version", "architecture", "quantization", "data", "names", "argument"),
    [
        # Before 0.10 every program loads a data set of the hub by a name of its own.
        ("0.8.0", LLAMA, "fp8", DATA, ["cnn_dailymail", "ccdv/cnn_dailymail", "lambada"], None),
        ("0.9.0", LLAMA, "int8_sq", DATA, ["cnn_dailymail", "ccdv/cnn_dailymail", "lambada"], None),
        # The scripts of families know split and column by the name in the folder's path.
        ("0.16.0", LLAMA, "int8_sq", DATA, ["ccdv/cnn_dailymail"], "/scratch/ccdv/cnn_dailymail"),
        ("1.2.1", "GPT2LMHeadModel", "int8_sq", DATA, ["lambada"], "/scratch/lambada"),
        # quantize.py takes any folder, whose column it takes for `text` unless the name says otherwise.
        ("0.16.0", LLAMA, "fp8", DATA, [], "/calibration"),
        ("0.16.0", LLAMA, "fp8", "hf:abisee/cnn_dailymail@main", ["cnn_dailymail"], "/scratch/cnn_dailymail"),
        ("0.16.0", LLAMA, "int8_wo", None, [], None),
    ],
)
def test_calibration_data_have_the_name_that_the_program_knows(
    version: str, architecture: str, quantization: str, data: str | None, names: list[str], argument: str | None
) -> None:
    model = facts(architecture=architecture)
    normal, _ = HERE.normalise(spec_with(version, quantization, calibration=data), model, H100)
    job = Job(stage=Stage.CONVERT, toolchain="trtllm", version=version, spec=normal, facts=model, platform=None)
    named = [command.argv for command in HERE.plan(job, DIRECTORIES) if "name_data_set.py" in " ".join(command.argv)]
    assert [list(argv[-len(names) - 1 :]) for argv in named] == ([["/calibration", *names]] if names else [])
    script = convert(spec_with(version, quantization, calibration=data), model)
    assert ("--calib_dataset" in script) is (argument is not None)
    assert argument is None or f"--calib_dataset {argument}" in script


def test_an_option_of_one_recipe_is_refused_with_another() -> None:
    (problem,) = find_problems(spec_with("0.16.0", None, options={"smoothquant": 0.8}), facts())
    assert problem.code == "reserved_option"
    assert "quantization int8_sq" in problem.detail
    (problem,) = find_problems(spec_with("0.16.0", "fp8", calibration=DATA, options={"load_by_shard": True}), facts())
    assert (problem.code, problem.pointer) == ("unknown_option", "/options/load_by_shard")


@pytest.mark.parametrize(
    ("version", "architecture", "quantization", "kv_cache", "pointer", "words"),
    [
        ("0.16.0", PHI, "int8_sq", None, None, None),  # by quantize.py
        ("0.8.0", PHI, "fp8", None, None, None),
        ("0.9.0", LLAMA, None, "int8", None, None),
        ("0.16.0", LLAMA, "nvfp4", None, "/precision/quantization", "0.16.0"),
        ("0.16.0", FALCON, "fp8_rowwise", None, "/precision/quantization", FALCON),
        ("0.16.0", LLAMA, "fp8_rowwise", "fp8", "/precision/kv_cache", "fp8"),
        ("0.16.0", LLAMA, "int4_gptq", None, "/precision/quantization", "int4_gptq"),  # of such a model only
    ],
)
def test_a_precision_that_no_table_proves_is_refused(
    version: str, architecture: str, quantization: str, kv_cache: str, pointer: str | None, words: str
) -> None:
    requested, model = spec_with(version, quantization, kv_cache, calibration=DATA), facts(architecture=architecture)
    problems = find_problems(requested, model)
    assert [problem.pointer for problem in problems] == ([pointer] if pointer else [])
    for problem in problems:
        assert words in problem.detail
        assert problem.value in (quantization, kv_cache)


@pytest.mark.parametrize(
    ("version", "architecture", "config", "quantization", "codes"),
    [
        ("0.16.0", LLAMA, GPTQ, None, []),
        ("0.16.0", LLAMA, GPTQ, "int4_gptq", []),
        ("0.16.0", LLAMA, GPTQ, "fp8", ["quantized_model"]),
        ("0.16.0", LLAMA, GPTQ | {"bits": 3}, None, ["quantized_model"]),
        ("0.16.0", LLAMA, {"quant_method": "awq", "bits": 4}, None, []),
        ("0.16.0", LLAMA, {"quant_method": "fbgemm_fp8"}, None, []),
        ("0.16.0", LLAMA, {"quant_method": "bitsandbytes"}, None, ["quantized_model"]),
        ("0.16.0", "Qwen2ForCausalLM", GPTQ, None, []),
        ("0.16.0", "Qwen2ForCausalLM", {"quant_method": "awq", "bits": 4}, None, ["quantized_model"]),
        ("0.15.0", LLAMA, GPTQ, None, []),
        ("0.8.0", LLAMA, GPTQ, None, ["quantized_model"]),
        ("0.15.0", "MistralForCausalLM", GPTQ, None, ["quantized_model"]),
        ("0.16.0", FALCON, GPTQ, None, ["quantized_model"]),
        ("0.17.0", LLAMA, MODELOPT_FP8, "fp8", []),
        ("0.16.0", LLAMA, MODELOPT_FP8, None, ["quantized_model"]),
        ("1.2.1", LLAMA, MODELOPT_FP8, "nvfp4", ["quantized_model"]),
        ("1.2.1", LLAMA, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, None, []),
        ("1.2.1", LLAMA, {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, None, ["quantized_model"]),
        ("1.2.1", LLAMA, GPTQ | {"bits": 8}, None, ["quantized_model"]),
        ("1.2.1", "DeciLMForCausalLM", MODELOPT_FP8, None, ["quantized_model"]),  # its script lacks the flag
        ("0.18.0", "NemotronForCausalLM", MODELOPT_FP8, None, ["quantized_model"]),
    ],
)
def test_a_quantized_model_is_converted_only_by_a_script_that_takes_it(
    version: str, architecture: str, config: dict[str, Any], quantization: str | None, codes: list[str]
) -> None:
    model = facts(architecture=architecture, quantization_config=config)
    assert [problem.code for problem in find_problems(spec_with(version, quantization), model)] == codes


@pytest.mark.parametrize(
    ("version", "architecture", "config", "kv_cache", "flags"),
    [
        ("0.17.0", LLAMA, MODELOPT_FP8, None, "--use_fp8"),
        ("1.1.0", LLAMA, MODELOPT_FP8, "fp8", "--use_fp8 --fp8_kv_cache"),
        ("1.2.1", "MixtralForCausalLM", MODELOPT_NVFP4, None, "--use_nvfp4"),
        ("1.2.1", LLAMA, MODELOPT_NVFP4, "fp8", "--use_nvfp4 --fp8_kv_cache"),
        ("1.2.1", "NemotronForCausalLM", MODELOPT_FP8, None, ""),  # its script reads hf_quant_config.json
        (
            "0.16.0", LLAMA, {"quant_method": "awq", "bits": 4}, "fp8",
            "--use_weight_only --weight_only_precision int4_awq --per_group --fp8_kv_cache",
        ),
        (
            "1.2.1", LLAMA, GPTQ, "fp8",
            "--use_weight_only --weight_only_precision int4_gptq --per_group --fp8_kv_cache",
        ),
    ],
)  # fmt: skip
def test_a_quantized_model_is_converted_with_the_flags_of_its_weights(
    version: str, architecture: str, config: dict[str, Any], kv_cache: str | None, flags: str
) -> None:
    model = facts(architecture=architecture, num_experts=None, quantization_config=config)
    command = convert(spec_with(version, None, kv_cache), model)
    between = command.partition("convert_checkpoint.py ")[2].partition("--model_dir")[0]
    assert between.strip() == flags
    assert find_problems(spec_with(version, None, kv_cache), model) == []


@pytest.mark.parametrize(
    ("architecture", "kv_cache", "note"),
    [("NemotronForCausalLM", "fp8", "model_precision"), (LLAMA, None, "model_kv_cache")],
)
def test_the_kv_cache_of_a_quantized_model_is_its_own_where_the_script_follows_it(
    architecture: str, kv_cache: str | None, note: str
) -> None:
    model = facts(architecture=architecture, quantization_config=MODELOPT_FP8)
    normal, notes = HERE.normalise(spec_with("1.2.1", None), model, H100)
    assert (normal.precision.quantization, normal.precision.kv_cache) == ("fp8", kv_cache)
    assert note in [found.code for found in notes if found.pointer == "/precision/kv_cache"]


def test_nemotron_without_scales_for_the_kv_cache_gets_none() -> None:
    model = facts(architecture="NemotronForCausalLM", quantization_config=MODELOPT_FP8 | {"kv_cache_quant_algo": None})
    assert find_problems(spec_with("1.2.1", None), model) == []
    assert [problem.code for problem in find_problems(spec_with("1.2.1", None, "fp8"), model)] == ["quantized_model"]


def test_the_refusal_of_a_quantized_model_names_the_first_release_that_takes_it() -> None:
    (problem,) = find_problems(spec_with("0.16.0", None), facts(quantization_config=MODELOPT_FP8))
    assert "0.17.0 or newer" in (problem.remedy or "")
    assert "modelopt, FP8" in problem.detail


@cache
def possible_precisions() -> list[tuple[str, str, str | None, str | None]]:
    return [
        (release.version, architecture, quantization, kv_cache)
        for release in {release.series: release for release in all_releases()}.values()
        for architecture in {family_names()[name]: name for name in release.architectures}.values()
        for quantization in (None, *recipe_table().quantization)
        for kv_cache in (None, *recipe_table().kv_cache)
        if find_conversion(release, architecture, Precision(quantization=quantization, kv_cache=kv_cache), None)
    ]


@settings(max_examples=1500, deadline=None)
@given(st.deferred(lambda: st.sampled_from(possible_precisions())), st.data())
def test_every_recipe_is_accepted_by_its_program(combination: tuple[str, str, str, str], data: st.DataObject) -> None:
    """argparse, built from the program's own table, reads back what was written."""
    version, architecture, quantization, kv_cache = combination
    requested, model = spec_with(version, quantization, kv_cache, calibration=DATA), facts(architecture=architecture)
    sizes = {role: data.draw(st.sampled_from([1, 2])) for role in ("tp", "pp", "cp")}
    requested = requested.model_copy(update={"parallelism": Parallelism(**sizes)})
    unsupported = {problem.code.removeprefix("no_") for problem in find_problems(requested, model)}
    _, program, *argv = convert(requested, model).split()
    by_quantize = program.endswith("quantize.py")
    parser = quantize_parser(version) if by_quantize else convert_parser(version, family_names()[architecture])
    parsed = vars(parser.parse_args(argv))
    assert parsed["dtype"] == "bfloat16"
    for role, size in sizes.items():
        name = f"{role}_size"
        if role == "tp" and "tp_size" not in parsed:
            name = "world_size"
        assert parsed.get(name, 1) == (1 if role in unsupported else size)
    if by_quantize and quantization != "auto_quantize":
        assert parsed["qformat"] == (quantization or "full_prec")
        assert parsed["kv_cache_dtype"] == kv_cache


@pytest.mark.parametrize(("trusted", "codes"), [(False, ["remote_code"]), (True, [])])
def test_a_models_own_code_runs_only_if_it_is_trusted(trusted: bool, codes: list[str]) -> None:
    model = facts(architecture="DeciLMForCausalLM", remote_code=True, trusted=trusted)
    requested = spec_with("0.16.0", None)
    assert [problem.code for problem in find_problems(requested, model)] == codes
    assert ("--trust_remote_code" in convert(requested, model)) == trusted


def test_weights_of_another_program_are_written_anew_before_the_script_reads_them() -> None:
    requested = spec_with("0.16.0", "w4a8_qserve", options={"quant_ckpt_path": "hf:org/weights"})
    requested = requested.model_copy(update={"precision": requested.precision.model_copy(update={"dtype": "float16"})})
    normal, _ = HERE.normalise(requested, facts(), H100)
    job = Job(stage=Stage.CONVERT, toolchain="trtllm", version="0.16.0", spec=normal, facts=facts(), platform=None)
    directories = replace(DIRECTORIES, inputs={"quant_ckpt_path": Path("/in/weights")})
    weights, script, _ = HERE.plan(job, directories)
    assert " ".join(weights.argv).endswith("/scratch/quant_ckpt_path /in/weights/model.pt /in/weights/scale.pt")
    assert "--quant_ckpt_path /scratch/quant_ckpt_path" in " ".join(script.argv)
    # The other path of the script reads safetensors.
    assert script.environment["TRTLLM_DISABLE_UNIFIED_CONVERTER"] == "1"
    assert "quant_ckpt_path" in HERE.convert_options


def test_scripts_get_the_environment_that_a_model_needs() -> None:
    for architecture, expected in (("GraniteForCausalLM", True), (LLAMA, False)):
        conversion = find_conversion(find_release("1.0.0"), architecture, Precision(), None)
        assert conversion is not None
        assert ("TRTLLM_DISABLE_UNIFIED_CONVERTER" in conversion.environment) is expected
