"""Quantizations grouped by what they do to weights and KV cache, in the farm's names for them."""

from __future__ import annotations

from packaging.version import Version

from toolchains.trtllm.context.build_context import BuildContext

# Weights of the builder's FP8 workflow (tensorrt_llm/builder.py of main, Oct 2025). 0.17 brought FP8 context attention
# to W4A8 (docs/source/release-notes.md @001eaece); before, it is for `fp8` alone (tensorrt_llm/builder.py @be178810).
_FP8_WORKFLOW = frozenset({"fp8", "w4a8_awq", "nvfp4"})
_FIRST_WITH_WORKFLOW = Version("0.17.0")

WEIGHT_ONLY = frozenset({"int8_wo", "int4_wo", "int4_gptq", "int4_awq"})
SCALED_PER_CHANNEL_OR_TOKEN = frozenset({"fp8_rowwise", "fp8_pc_pt"})
SMOOTH_QUANT = "int8_sq"


def has_fp8_workflow(context: BuildContext) -> bool:
    """True if FP8 attention goes with the weights in this release."""
    quantization = context.spec.precision.quantization
    if Version(context.release.version) < _FIRST_WITH_WORKFLOW:
        return quantization == "fp8"
    return quantization in _FP8_WORKFLOW


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
