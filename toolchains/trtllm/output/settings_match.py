"""Whether the settings of a checkpoint, which an engine repeats, are what the spec asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from enginefarm.contract.spec import BuildSpec
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.output.rank_files import read_json

MIXED = "MIXED_PRECISION"
QUANTIZED_LAYERS = "quant_cfg.json"

# What the programs call the farm's words. SmoothQuant has a name for each way to scale.
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
    "int4_awq": frozenset({"W4A16_AWQ"}),
    "int4_gptq": frozenset({"W4A16_GPTQ"}),
    "int8_gptq": frozenset({"W8A16_GPTQ"}),
    "w4a8_awq": frozenset({"W4A8_AWQ"}),
    "fp8": frozenset({"FP8"}),
    "fp8_rowwise": frozenset({"FP8_PER_CHANNEL_PER_TOKEN"}),
    "nvfp4": frozenset({"NVFP4"}),
    "auto_quantize": frozenset({MIXED}),
}
_CACHES = {None: None, "int8": "INT8", "fp8": "FP8"}


def check(config: Mapping[str, Any], spec: BuildSpec, where: str) -> None:
    """`where`: what the settings are of, for the message. Old releases leave some out, and those are not compared.

    Raises:
        InvalidOutput: naming each field that is another.
    """
    unlike = [
        f"{name} is {has}, not {wanted}"
        for name, has, wanted in (*_precision(config, spec), *_mapping(config.get("mapping"), spec))
    ]
    if unlike:
        raise InvalidOutput(f"the {where} is not what was asked for: {'; '.join(unlike)}")


def check_mixed(config: Mapping[str, Any], output: Path) -> None:
    """Which layer has which precision is in a file of its own."""
    if _quantization(config).get("quant_algo") == MIXED:
        read_json(output / QUANTIZED_LAYERS)


def _precision(config: Mapping[str, Any], spec: BuildSpec) -> Iterator[tuple[str, Any, Any]]:
    precision, found = spec.precision, _quantization(config)
    if config.get("dtype") != precision.dtype:
        yield "dtype", config.get("dtype"), precision.dtype
    known = _ALGORITHMS.get(precision.quantization)
    if known and "quant_algo" in found and found["quant_algo"] not in known:
        yield "quant_algo", found["quant_algo"], " or ".join(sorted(map(str, known)))
    cache = _CACHES.get(precision.kv_cache)
    if "kv_cache_quant_algo" in found and (found["kv_cache_quant_algo"] or None) != cache:
        yield "kv_cache_quant_algo", found["kv_cache_quant_algo"], cache


def _mapping(mapping: object, spec: BuildSpec) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(mapping, dict):
        return
    sizes = spec.parallelism
    wanted = {"tp_size": sizes.tp, "pp_size": sizes.pp, "cp_size": sizes.cp, "world_size": sizes.world_size}
    yield from ((name, mapping[name], size) for name, size in wanted.items() if mapping.get(name, size) != size)


def _quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("quantization")
    return found if isinstance(found, dict) else {}
