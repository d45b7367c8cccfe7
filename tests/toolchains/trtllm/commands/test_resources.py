"""Estimates are near the measurements, and grow and shrink with model and limits."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import Precision
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from tests.toolchains.trtllm.build_contexts import FACTS, H100, VERSION, facts, spec
from toolchains.toolchain import Needs
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.context.conversion import find_conversion
from toolchains.trtllm.releases.model_family import family_names, find_family
from toolchains.trtllm.releases.precision_recipe import may_be_laid_out_for_sm, quantization_of, recipe_table
from toolchains.trtllm.releases.release import all_releases

GB = 10**9
DATA = "file:/data/cnn_dailymail"


def needs(stage: Stage, model: ModelFacts = FACTS, **fields: Any) -> Needs:
    normal, _ = TOOLCHAIN.normalise(spec(**fields), model, H100)
    platform = H100 if stage is Stage.BUILD else None
    return TOOLCHAIN.needs(
        Job(stage=stage, toolchain="trtllm", version=VERSION, spec=normal, facts=model, platform=platform)
    )


def precision(quantization: str | None = None, dtype: str = "bfloat16") -> dict[str, Any]:
    calibration = DATA if quantization == "fp8" else None
    return {"precision": {"dtype": dtype, "quantization": quantization}, "calibration": calibration}


@pytest.mark.parametrize(
    ("weights", "tp", "measured"),
    [(16 * GB, 1, 42 * GB), (98 * GB, 2, 145 * GB)],  # Build phase peak memory of an 8B; NVIDIA/TensorRT-LLM#4375
)
def test_host_memory_of_a_build_is_near_the_measurement(weights: int, tp: int, measured: int) -> None:
    estimate = needs(Stage.BUILD, facts(weight_bytes=weights), parallelism={"tp": tp}).host_memory
    assert 0.7 * measured < estimate < 1.4 * measured


def test_gpu_memory_of_a_calibration_is_near_the_documented_one() -> None:
    """70B to FP8: about 210 GB, on all GPUs together."""
    estimate = needs(Stage.CONVERT, facts(weight_bytes=140 * GB), **precision("fp8"))
    assert 190 * GB < estimate.gpu_memory_in_all < 230 * GB
    assert estimate.gpu
    assert not needs(Stage.CONVERT, facts(weight_bytes=140 * GB)).gpu


def test_a_calibration_of_the_smallest_model_needs_a_gpu() -> None:
    assert needs(Stage.CONVERT, facts(weight_bytes=0), **precision("fp8")).gpu


LAID_OUT = {"int8_wo", "int4_wo", "int4_gptq", "int4_awq"}
MODELS = (
    None,
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "gptq", "bits": 8},
    {"quant_method": "awq", "bits": 4},
)


def test_exactly_weight_only_weights_that_a_conversion_script_writes_are_laid_out_for_one_sm() -> None:
    """Of every release and architecture. The builder lays out what quantize.py writes."""
    laid_out = set()
    for release in all_releases():
        for architecture in family_names():
            # Whisper's script asks for the GPU in every precision, in some releases.
            family = find_family(architecture)
            if family is not None and family.gpu_dependent:
                continue
            for quantization in (None, *recipe_table().quantization):
                for config in MODELS:
                    precision = Precision(dtype="float16", quantization=quantization)
                    model = facts(architecture=architecture, quantization_config=config)
                    conversion = find_conversion(release, architecture, precision, quantization_of(model))
                    if conversion is None:
                        continue
                    by_script = conversion.script is not release.quantize
                    # The script of Whisper asks the GPU whatever the precision is, in these releases.
                    if architecture == "WhisperForConditionalGeneration" and "0.12.0" <= release.version < "1.":
                        assert conversion.needs_same_sm
                        continue
                    assert conversion.needs_same_sm == (by_script and quantization in LAID_OUT)
                    if conversion.needs_same_sm:
                        laid_out.add(quantization)
    assert laid_out == LAID_OUT


def test_a_conversion_for_one_sm_needs_a_gpu() -> None:
    weight_only = needs(Stage.CONVERT, **precision("int8_wo", "float16"))
    assert (weight_only.same_sm, weight_only.gpu) == (True, True)
    assert not needs(Stage.CONVERT, **precision("fp8")).same_sm
    assert not needs(Stage.BUILD, **precision("int8_wo", "float16")).same_sm


def test_weights_of_an_unknown_model_count_as_laid_out_unless_they_were_calibrated() -> None:
    """An imported engine comes without the facts of its model."""
    laid_out = {}
    for quantization in recipe_table().quantization:
        laid_out[quantization] = [may_be_laid_out_for_sm(quantization, calibrated=data) for data in (False, True)]
    assert {name for name, (plain, _) in laid_out.items() if plain} == LAID_OUT
    assert laid_out["int4_awq"] == [True, False]
    assert laid_out["int8_wo"] == [True, True], "its KV cache may be calibrated"


def test_gpu_memory_of_a_build_is_near_the_measurement() -> None:
    """7B in 16 bits: 14.5 GB of weights and 3.1 GB of activations (#1397)."""
    model = facts(weight_bytes=int(13.5 * GB), intermediate_size=11008, num_key_value_heads=32)
    assert 13 * GB < needs(Stage.BUILD, model).gpu_memory < 19 * GB


def test_disk_is_three_times_the_weights() -> None:
    assert needs(Stage.CONVERT).scratch == needs(Stage.BUILD).scratch == 3 * FACTS.weight_bytes


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"parallelism": {"tp": 2}}, {}),
        ({"parallelism": {"tp": 2, "pp": 2}}, {"parallelism": {"tp": 2}}),
        (precision("int8_wo"), {}),
        (precision("int4_wo"), precision("int8_wo")),
        ({}, precision(dtype="float32")),
        ({"limits": {"max_batch_size": 1}}, {"limits": {"max_batch_size": 64}}),
        ({}, {"options": {"gather_context_logits": True}}),
        ({"options": {"weight_streaming": True}}, {}),
    ],
)
def test_a_smaller_job_needs_less_memory(less: dict[str, Any], more: dict[str, Any]) -> None:
    small, large = needs(Stage.BUILD, **less), needs(Stage.BUILD, **more)
    assert small.gpu_memory < large.gpu_memory
    assert small.host_memory <= large.host_memory


def test_loading_by_shard_needs_less_memory_than_the_model() -> None:
    by_shard = needs(Stage.CONVERT, options={"load_by_shard": True}, parallelism={"tp": 4})
    assert by_shard.host_memory < FACTS.weight_bytes < needs(Stage.CONVERT).host_memory


def test_a_model_that_is_already_quantized_keeps_its_size() -> None:
    model = facts(quantization_config={"quant_method": "gptq", "bits": 4}, weight_bytes=5 * GB)
    assert needs(Stage.BUILD, model).scratch == 15 * GB
