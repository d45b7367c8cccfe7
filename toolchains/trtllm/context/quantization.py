"""The farm's words for quantisations, by what they do to weights and KV cache."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext

# What the builder calls the FP8 workflow since 0.20; before, it is FP8 alone.
_FP8_WORKFLOW = frozenset({"fp8", "w4a8_awq", "nvfp4"})

WEIGHT_ONLY = frozenset({"int8_wo", "int4_wo", "int8_gptq", "int4_gptq", "int4_awq"})
SCALED_PER_CHANNEL_OR_TOKEN = frozenset({"fp8_rowwise"})
SMOOTH = "int8_sq"


def has_fp8_workflow(context: BuildContext, *, widened: bool) -> bool:
    """Whether FP8 attention can go with these weights. `widened`: from 0.20 on."""
    word = context.spec.precision.quantization
    return word in _FP8_WORKFLOW if widened else word == "fp8"


def has_fp8_cache(context: BuildContext) -> bool:
    return context.spec.precision.kv_cache == "fp8"


def has_int8_cache(context: BuildContext) -> bool:
    return context.spec.precision.kv_cache == "int8"


def auto_formats(context: BuildContext) -> tuple[str, ...]:
    """The formats that auto-quantisation may choose from."""
    given = context.option_value("autoq_format")
    return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else ()
