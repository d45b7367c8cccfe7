"""Rewrites of the precision: the model's own, where the model decides."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.conversion import follows_model_kv_cache
from toolchains.trtllm.context.quantization import auto_formats
from toolchains.trtllm.normalization.change import Change, option_change
from toolchains.trtllm.releases.precision_recipe import quantization_name, quantization_of

# Bounds of auto_quantize_bits, from examples/quantization/quantize.py @aaacc9bd.
_MIN_BITS, _MIN_BITS_WITHOUT_4 = 4, 8
_MAX_BITS = 16


def take_model_precision(context: BuildContext) -> Iterator[Change]:
    # Source: tensorrt_llm/models/llama/config.py @aaacc9bd.
    model_quantization = quantization_of(context.facts)
    if model_quantization is None or context.spec.precision.quantization is not None:
        return
    name = quantization_name(model_quantization)
    if name:
        reason = "the model is quantized already, and the script follows the model whatever its flags say"
        yield Change("model_precision", "precision", "quantization", name, reason)


def take_model_kv_cache(context: BuildContext) -> Iterator[Change]:
    # Source: examples/models/core/gpt/convert_checkpoint.py @7edbcccb.
    precision, model_quantization = context.spec.precision, quantization_of(context.facts)
    if precision.kv_cache is not None or model_quantization is None or model_quantization.kv_cache is None:
        return
    if follows_model_kv_cache(context.release, context.facts.architecture, precision, model_quantization):
        reason = "the model has scales for it, and the script follows the model"
        yield Change("model_precision", "precision", "kv_cache", model_quantization.kv_cache, reason)


def resolve_dtype(context: BuildContext) -> Iterator[Change]:
    # Source: examples/models/core/llama/convert_checkpoint.py @fd96a08b.
    model_dtype = context.facts.dtype
    if context.dtype != "auto" or model_dtype is None:
        return
    if model_dtype == "float32":
        reason = "auto turns a float32 model into float16; write float32 to keep it"
        yield Change("dtype_auto", "precision", "dtype", "float16", reason)
    else:
        yield Change("dtype_auto", "precision", "dtype", model_dtype, "the model's own dtype")


def bound_auto_quantize_bits(context: BuildContext) -> Iterator[Change]:
    """The script takes the lower bound for any number of bits out of range, too many included."""
    formats = auto_formats(context)
    bits = context.option_value("auto_quantize_bits")
    if not formats or not isinstance(bits, int | float):
        return
    min_bits = _MIN_BITS_WITHOUT_4
    if "4" in "".join(formats):
        min_bits = _MIN_BITS
    if not min_bits <= bits <= _MAX_BITS:
        reason = f"these formats take {min_bits} to {_MAX_BITS} bits, and the release uses the lower bound instead"
        yield option_change("autoq_bits", "auto_quantize_bits", min_bits, reason)
