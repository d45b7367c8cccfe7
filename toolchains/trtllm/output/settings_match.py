"""Check that the settings of a checkpoint are those of the spec. An engine's config.json repeats them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginefarm.contract.spec import BuildSpec
from toolchains.output_files import OutputFiles
from toolchains.toolchain import InvalidOutput

MIXED_PRECISION = "MIXED_PRECISION"
LAYER_PRECISIONS = "quant_cfg.json"

# quantization of a spec → its names in config.json. SmoothQuant has a name for each granularity of its scales.
_ALGORITHMS: Mapping[str | None, frozenset[str | None]] = {
    None: frozenset({None, "NO_QUANT"}),
    "int8_wo": frozenset({"W8A16"}),
    "int4_wo": frozenset({"W4A16"}),
    "int8_sq": frozenset(
        {
            "W8A8_SQ_PER_CHANNEL",
            "W8A8_SQ_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
            "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
            "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
        }
    ),
    # The script of Llama converts AutoAWQ's weights to the form of GPTQ (convert_checkpoint.py @368f8f2a).
    "int4_awq": frozenset({"W4A16_AWQ", "W4A16_GPTQ"}),
    "int4_gptq": frozenset({"W4A16_GPTQ"}),
    "w4a8_awq": frozenset({"W4A8_AWQ"}),
    "w4a8_qserve": frozenset({"W4A8_QSERVE_PER_GROUP", "W4A8_QSERVE_PER_CHANNEL"}),
    "fp8": frozenset({"FP8"}),
    "fp8_rowwise": frozenset({"FP8_PER_CHANNEL_PER_TOKEN"}),
    "fp8_pc_pt": frozenset({"FP8_PER_CHANNEL_PER_TOKEN"}),
    "nvfp4": frozenset({"NVFP4"}),
    "auto_quantize": frozenset({MIXED_PRECISION}),
}
_CACHE_ALGORITHMS = {None: None, "int8": "INT8", "fp8": "FP8"}


def check(config: Mapping[str, Any], spec: BuildSpec, subject: str) -> None:
    """Compare the settings with the spec. Old releases leave some settings out; those are not compared.

    Args:
        config: the checkpoint's config.json, or `pretrained_config` of an engine's.
        subject: "checkpoint" or "engine", for the message.

    Raises:
        InvalidOutput: with every field that differs.
    """
    precision = spec.precision
    mismatches = []
    # Every release writes the dtype.
    if config.get("dtype") != precision.dtype:
        mismatches.append(f"dtype is {config.get('dtype')}, not {precision.dtype}")

    quantization = _quantization(config)
    algorithms = _ALGORITHMS.get(precision.quantization)
    if algorithms and "quant_algo" in quantization and quantization["quant_algo"] not in algorithms:
        expected = " or ".join(sorted(map(str, algorithms)))
        mismatches.append(f"quant_algo is {quantization['quant_algo']}, not {expected}")
    cache_algorithm = _CACHE_ALGORITHMS.get(precision.kv_cache)
    # An empty text means none, like null.
    if "kv_cache_quant_algo" in quantization and (quantization["kv_cache_quant_algo"] or None) != cache_algorithm:
        mismatches.append(f"kv_cache_quant_algo is {quantization['kv_cache_quant_algo']}, not {cache_algorithm}")

    sizes = spec.parallelism
    expected_mapping = {
        "tp_size": sizes.tp,
        "pp_size": sizes.pp,
        "cp_size": sizes.cp,
        "world_size": sizes.world_size,
    }
    # Two tensor-parallel ranks leave as many files as two pipeline stages: only the mapping tells them apart.
    mapping = config.get("mapping")
    if isinstance(mapping, dict):
        for name, size in expected_mapping.items():
            if mapping.get(name, size) != size:
                mismatches.append(f"{name} is {mapping[name]}, not {size}")
    if mismatches:
        raise InvalidOutput(f"the {subject} is not what the spec asks for: {'; '.join(mismatches)}")


def check_mixed_precision(config: Mapping[str, Any], output: OutputFiles) -> None:
    """Require the file that names each layer's precision, if layers differ.

    Raises:
        InvalidOutput: the file is missing or broken.
    """
    if _quantization(config).get("quant_algo") == MIXED_PRECISION:
        output.read_json(LAYER_PRECISIONS)


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    quantization = config.get("quantization")
    # Old releases leave the section out.
    if not isinstance(quantization, dict):
        return {}
    return quantization
