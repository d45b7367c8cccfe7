"""What precision really is: the model's own, where it decides."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import auto_formats
from toolchains.trtllm.normalization.change import Change, option
from toolchains.trtllm.releases.precision_recipe import quantization_name, quantization_of

_FEWEST_BITS, _FEWEST_BITS_WITHOUT_4 = 4, 8
_MOST_BITS = 16


def model_precision(context: BuildContext) -> Iterator[Change]:
    found = quantization_of(context.facts)
    if found and context.spec.precision.quantization is None and (word := quantization_name(found)):
        why = "the model is quantised already, and the real script lets that win over every flag"
        yield Change("model_precision", "precision", "quantization", word, why)


def dtype(context: BuildContext) -> Iterator[Change]:
    if context.dtype != "auto" or context.facts.dtype is None:
        return
    found = context.facts.dtype
    why = "the model's own dtype"
    if found == "float32":
        found, why = "float16", "auto turns a float32 model into float16; write float32 to keep it"
    yield Change("dtype_auto", "precision", "dtype", found, why)


def auto_quantize(context: BuildContext) -> Iterator[Change]:
    bits, formats = context.option_value("auto_quantize_bits"), auto_formats(context)
    if not formats or not isinstance(bits, int | float):
        return
    fewest = _FEWEST_BITS if any("4" in name for name in formats) else _FEWEST_BITS_WITHOUT_4
    if not fewest <= bits <= _MOST_BITS:
        why = f"it must be {fewest} to {_MOST_BITS} bits with these formats, and the lower bound counts instead"
        yield option("autoq_bits", "auto_quantize_bits", fewest, why)
