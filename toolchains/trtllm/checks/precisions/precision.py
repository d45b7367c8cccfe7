"""Check precisions against the documentation, and for contradictions in themselves."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import SMOOTH_QUANT, auto_formats, has_int8_cache
from toolchains.trtllm.releases.documented_precisions import nvfp4_architectures, undocumented_model
from toolchains.trtllm.releases.precision_recipe import MODELOPT, quantization_of

# What tensorrt_llm/quantization/quantize.py excludes by itself: the head, embeddings, and routers of experts.
_NEVER_QUANTIZED = frozenset({"lm_head", "embed_tokens", "gate", "router"})


def dtype(context: BuildContext) -> Iterator[Problem]:
    """Normalization replaces `auto` by the model's dtype. The key has to name one."""
    if context.dtype == "auto":
        yield Problem(
            pointer="/precision/dtype",
            code="dtype_unknown",
            detail="the model's config.json names no dtype",
            value="auto",
            expected="bfloat16, float16 or float32",
        )


def qserve_dtype(context: BuildContext) -> Iterator[Problem]:
    # QServeW4A8Linear of tensorrt_llm/quantization/layers.py asserts it.
    if context.spec.precision.quantization == "w4a8_qserve" and context.dtype not in ("float16", "auto"):
        yield Problem(
            pointer="/precision/dtype",
            code="qserve_dtype",
            detail="the kernels of w4a8_qserve are for float16 alone",
            value=context.dtype,
            expected="float16",
        )


def excluded_layers(context: BuildContext) -> Iterator[Problem]:
    """Layers that ModelOpt left unquantized, and that the scripts take for quantized like the others."""
    model_quantization = quantization_of(context.facts)
    if model_quantization is None or model_quantization.method != MODELOPT or context.conversion is None:
        return
    config = context.facts.quantization_config or {}
    # hf_quant_config.json has one name, and config.json of newer exports the other.
    patterns = config.get("exclude_modules") or config.get("ignore") or []
    unexpected = [str(pattern) for pattern in patterns if not _is_never_quantized(str(pattern))]
    if unexpected:
        yield Problem(
            pointer="/model",
            code="modelopt_excluded",
            detail=f"the model's quantization leaves out {', '.join(unexpected[:3])}, and the script quantizes them",
            value=unexpected[0],
            expected="a model whose quantization leaves out lm_head and the routers of experts alone",
            remedy="give the unquantized model with calibration",
        )


def _is_never_quantized(pattern: str) -> bool:
    last_part = pattern.replace("*", "").rstrip(".").rpartition(".")[2]
    return last_part in _NEVER_QUANTIZED


def documented(context: BuildContext) -> Iterator[Problem]:
    quantization = context.spec.precision.quantization
    architecture = context.facts.architecture
    version = context.release.version
    # Refused in 0.16 alone, whose table was read (docs/source/reference/precision.md @aaacc9bd). In other releases
    # `normalization.advice` mentions it.
    line = undocumented_model(architecture, quantization, version)
    if line:
        yield Problem(
            pointer="/precision/quantization",
            code="precision_model",
            detail=f"TensorRT-LLM {version} is not documented to make {quantization} of {line.model}",
            value=quantization,
        )
    # Since 0.17 (docs/source/reference/precision.md @b2ae043f).
    if quantization == "nvfp4" and architecture not in nvfp4_architectures():
        yield Problem(
            pointer="/precision/quantization",
            code="nvfp4_model",
            detail=f"NVFP4 engines are documented for {' and '.join(nvfp4_architectures())} only",
            value=quantization,
        )


def cogvlm(context: BuildContext) -> Iterator[Problem]:
    if context.family_name != "cogvlm":
        return
    precision = context.spec.precision
    # Documented of every release (docs/source/reference/support-matrix.md of 0.12.0 @03dad628; examples/multimodal).
    if precision.dtype not in ("bfloat16", "auto"):
        yield Problem(
            pointer="/precision/dtype",
            code="cogvlm_dtype",
            detail="CogVLM is for bfloat16 alone",
            value=precision.dtype,
            expected="bfloat16",
        )
    # The script asserts both (tensorrt_llm/models/cogvlm/convert.py of 0.10.0 to 0.14.0 and @be178810).
    if precision.quantization == SMOOTH_QUANT:
        detail = "the script makes no SmoothQuant of CogVLM"
        yield Problem(
            pointer="/precision/quantization", code="cogvlm_int8", detail=detail, value=precision.quantization
        )
    if has_int8_cache(context):
        detail = "the script makes no int8 KV cache of CogVLM"
        yield Problem(pointer="/precision/kv_cache", code="cogvlm_int8", detail=detail, value=precision.kv_cache)


def gemma_smooth_quant(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/gemma/README.md of 0.9.0 to 0.14.0 and @be178810.
    precision = context.spec.precision
    is_other = precision.dtype not in ("float16", "auto")
    if context.family_name == "gemma" and precision.quantization == SMOOTH_QUANT and is_other:
        yield Problem(
            pointer="/precision/dtype",
            code="gemma_sq_dtype",
            detail=f"SmoothQuant of Gemma is for float16 alone in TensorRT-LLM {context.release.version}",
            value=precision.dtype,
            expected="float16",
        )


def auto_quantization(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/quantization/quantize.py @aaacc9bd.
    if {"fp8", "int8_sq"} <= set(auto_formats(context)):
        detail = "auto-quantization cannot choose between fp8 and int8_sq"
        yield refused_option(context, "autoq_formats", "autoq_format", detail, "one of the two")


CHECKS: tuple[Check, ...] = (
    dtype,
    qserve_dtype,
    excluded_layers,
    documented,
    cogvlm,
    gemma_smooth_quant,
    auto_quantization,
)
