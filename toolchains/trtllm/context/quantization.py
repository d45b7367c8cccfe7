"""Quantizations grouped by what they do to weights and KV cache, in the farm's names for them."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext

# Weights of the builder's FP8 workflow since 0.20; before, `fp8` alone (tensorrt_llm/builder.py of main, Oct 2025).
_FP8_WORKFLOW = frozenset({"fp8", "w4a8_awq", "nvfp4"})

WEIGHT_ONLY = frozenset({"int8_wo", "int4_wo", "int4_gptq", "int4_awq"})
SCALED_PER_CHANNEL_OR_TOKEN = frozenset({"fp8_rowwise", "fp8_pc_pt"})
SMOOTH_QUANT = "int8_sq"


def has_fp8_workflow(context: BuildContext, *, since_020: bool) -> bool:
    """True if FP8 attention goes with the weights.

    Args:
        since_020: whether to count what 0.20 and later count as FP8 weights.
    """
    quantization = context.spec.precision.quantization
    if since_020:
        return quantization in _FP8_WORKFLOW
    return quantization == "fp8"


def has_fp8_cache(context: BuildContext) -> bool:
    return context.spec.precision.kv_cache == "fp8"


def has_int8_cache(context: BuildContext) -> bool:
    return context.spec.precision.kv_cache == "int8"


def auto_formats(context: BuildContext) -> tuple[str, ...]:
    """The formats that auto-quantization chooses from, by the comma-separated option autoq_format."""
    formats = context.option_value("autoq_format")
    if not isinstance(formats, str):
        return ()
    return tuple(name.strip() for name in formats.split(","))
