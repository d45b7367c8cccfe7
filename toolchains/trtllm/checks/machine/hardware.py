"""Check what the GPU cannot do, and the builder would find out late. `checks.gpus` checks that it is known at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import (
    SCALED_PER_CHANNEL_OR_TOKEN,
    SMOOTH_QUANT,
    WEIGHT_ONLY,
    has_fp8_workflow,
    has_int8_cache,
)

# Compute capabilities (SM) as numbers.
_TURING, _AMPERE, _ADA, _HOPPER, _BLACKWELL, _AFTER_SM100 = 75, 80, 89, 90, 100, 120

# Options that are refused on SM 100 (tensorrt_llm/plugin/plugin.py @c20322ff).
_SM100_REFUSED = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "bert_context_fmha_fp32_acc",
)


class _PrecisionNeed(NamedTuple):
    """The lowest SM for one value of one field of `precision`. data/rules.json has the source of each."""

    rule: str
    field: Literal["dtype", "quantization", "kv_cache"]
    value: str
    min_sm: int


_PRECISION_NEEDS = (
    _PrecisionNeed("bf16_sm", "dtype", "bfloat16", 80),
    _PrecisionNeed("sq_sm", "quantization", "int8_sq", _AMPERE),
    _PrecisionNeed("fp8_sm", "quantization", "fp8", _ADA),
    _PrecisionNeed("fp8_kv_sm", "kv_cache", "fp8", _ADA),
    _PrecisionNeed("w4a8_hopper", "quantization", "w4a8_awq", _HOPPER),
    _PrecisionNeed("w4a8_sm", "quantization", "w4a8_awq", _ADA),
    # Kernels with a scale for each group of weights. On Volta every release lacks them that runs there at all.
    _PrecisionNeed("groupwise_sm", "quantization", "int4_awq", _AMPERE),
    _PrecisionNeed("groupwise_sm", "quantization", "int4_gptq", _AMPERE),
    _PrecisionNeed("groupwise_volta", "quantization", "int4_awq", _TURING),
    _PrecisionNeed("groupwise_volta", "quantization", "int4_gptq", _TURING),
    # Two rules, in force one after the other: 0.15 brought fp8_rowwise to Ada.
    _PrecisionNeed("fp8_rowwise_hopper", "quantization", "fp8_rowwise", _HOPPER),
    _PrecisionNeed("fp8_rowwise_sm", "quantization", "fp8_rowwise", _ADA),
    _PrecisionNeed("fp8_rowwise_sm", "quantization", "fp8_pc_pt", _ADA),
    _PrecisionNeed("qserve_sm", "quantization", "w4a8_qserve", _AMPERE),
    _PrecisionNeed("nvfp4_sm", "quantization", "nvfp4", _BLACKWELL),
)


def precision(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        return
    # The builder itself fails late, after minutes on the GPU (issues #1428 and #2229 of NVIDIA/TensorRT-LLM).
    for need in _PRECISION_NEEDS:
        if getattr(context.spec.precision, need.field) == need.value and context.sm < need.min_sm:
            expected = None  # of the other fields: `checks.precisions.legal_values`
            if need.field == "dtype":
                expected = "float16 or float32"
            yield Problem(
                pointer=f"/precision/{need.field}",
                code=need.rule,
                detail=f"SM {context.platform.sm} has no {need.value}; it needs SM {need.min_sm} or newer",
                value=need.value,
                expected=expected,
            )


def ada_w4a8(context: BuildContext) -> Iterator[Problem]:
    # Before 0.16 (docs/source/release-notes.md @001eaece).
    precision = context.spec.precision
    if context.sm == _ADA and precision.quantization == "w4a8_awq" and precision.dtype == "bfloat16":
        yield Problem(
            pointer="/precision/dtype",
            code="w4a8_bf16_ada",
            detail=f"w4a8_awq for SM {_ADA} is for float16 alone in TensorRT-LLM {context.release.version}",
            value="bfloat16",
            expected="float16",
        )


def sm120_precision(context: BuildContext) -> Iterator[Problem]:
    # Before 0.19 (docs/source/release-notes.md @001eaece).
    quantization = context.spec.precision.quantization
    if context.sm >= _AFTER_SM100 and quantization in ("fp8", "fp8_rowwise"):
        yield Problem(
            pointer="/precision/quantization",
            code="sm120_fp8",
            detail=f"TensorRT-LLM {context.release.version} has no FP8 kernels for SM {context.platform.sm}",
            value=quantization,
            remedy="build with 0.19.0 or newer, or without FP8",
        )


def latent_attention(context: BuildContext) -> Iterator[Problem]:
    # Before 0.19 (examples/deepseek_v2/README.md; pull request #1758 of NVIDIA/TensorRT-LLM).
    if context.platform.gpu is not None and context.family_name == "deepseek_v2" and context.sm < _HOPPER:
        yield Problem(
            pointer="/platform/sm",
            code="mla_sm",
            detail=f"the kernels of multi-head latent attention are for SM {_HOPPER}",
            value=context.platform.sm,
            expected=f"SM {_HOPPER} or newer",
        )


def sm100_precision(context: BuildContext) -> Iterator[Problem]:
    # Source: tensorrt_llm/builder.py of main, about Oct 2025. It does not refuse them from SM 120.
    if not _BLACKWELL <= context.sm < _AFTER_SM100:
        return
    refused = []
    if context.spec.precision.quantization in WEIGHT_ONLY | SCALED_PER_CHANNEL_OR_TOKEN | {SMOOTH_QUANT}:
        refused.append("quantization")
    if has_int8_cache(context):
        refused.append("kv_cache")
    for field in refused:
        value = getattr(context.spec.precision, field)
        yield Problem(
            pointer=f"/precision/{field}",
            code="sm100_int",
            detail=f"the builder refuses {value} on SM {context.platform.sm}",
            value=value,
        )


def plugins(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        return
    if context.sm == _BLACKWELL:
        for name in _SM100_REFUSED:
            if context.is_plugin_enabled(name):
                detail = "the release refuses it on SM 100"
                yield refused_option(context, "sm100_plugins", name, detail, "disable")
    # Source: docs/source/reference/support-matrix.md @aaacc9bd.
    elif context.sm != _HOPPER and context.is_plugin_enabled("gemm_swiglu_plugin"):
        detail = f"it is for SM {_HOPPER} only, and this is SM {context.platform.sm}"
        yield refused_option(context, "swiglu_sm", "gemm_swiglu_plugin", detail, "disable")


def fp8_attention(context: BuildContext) -> Iterator[Problem]:
    # Two rules, in force one after the other: 0.12 brought FP8 context attention to Ada
    # (docs/source/release-notes.md @001eaece; issues #1864 and #2855 of NVIDIA/TensorRT-LLM).
    option = "use_fp8_context_fmha"
    if context.platform.gpu is None or not has_fp8_workflow(context) or not context.enabled(option):
        return
    for rule, min_sm in (("fp8_fmha_hopper", _HOPPER), ("fp8_fmha_ada", _ADA)):
        if context.sm < min_sm:
            detail = f"FP8 context attention needs SM {min_sm} or newer, and this is SM {context.platform.sm}"
            yield refused_option(context, rule, option, detail, "disable")
    # Up to 0.19 the plugin takes SM 89 and 90 alone (gptAttentionCommon.cpp @42a7b092; issue #2855).
    if context.sm >= _AFTER_SM100:
        detail = f"there is no FP8 context attention for SM {context.platform.sm} in this release"
        yield refused_option(context, "fp8_fmha_sm120", option, detail, "disable")


CHECKS: tuple[Check, ...] = (
    precision,
    ada_w4a8,
    sm120_precision,
    latent_attention,
    sm100_precision,
    plugins,
    fp8_attention,
)
