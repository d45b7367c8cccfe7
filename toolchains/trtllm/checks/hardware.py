"""What this GPU cannot do, which the builder would find out late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import SCALED_PER_CHANNEL_OR_TOKEN, SMOOTH, WEIGHT_ONLY, has_int8_cache
from toolchains.trtllm.releases.precision_recipe import precision_recipes
from toolchains.trtllm.releases.rule_table import in_force

_TURING, _BLACKWELL, _AFTER_SM100 = 75, 100, 120
_HOPPER = 90
_SM100_REFUSED = (
    "gemm_swiglu_plugin",
    "fp8_rowwise_gemm_plugin",
    "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin",
    "bert_context_fmha_fp32_acc",
)


class _Need(NamedTuple):
    rule: str
    field: Literal["dtype", "quantization", "kv_cache"]
    word: str
    sm: int


_NEEDS = (
    _Need("bf16_sm", "dtype", "bfloat16", 80),
    _Need("fp8_sm", "quantization", "fp8", 89),
    _Need("fp8_kv_sm", "kv_cache", "fp8", 89),
    _Need("w4a8_sm", "quantization", "w4a8_awq", 89),
    _Need("fp8_rowwise_hopper", "quantization", "fp8_rowwise", 90),
    _Need("fp8_rowwise_sm", "quantization", "fp8_rowwise", 89),
    _Need("nvfp4_sm", "quantization", "nvfp4", _BLACKWELL),
)


def gpu(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        detail = "TensorRT-LLM builds engines for GPUs, and this platform has none"
        yield Problem(
            pointer="/platform", code="needs_gpu", detail=detail, value=context.platform.label(),
            expected="a platform with gpu and sm",
        )  # fmt: skip
    elif context.sm < _TURING:
        yield _sm(context, "volta", f"SM {context.platform.sm} is no longer supported", f"SM {_TURING} or newer")
    elif context.sm >= _BLACKWELL:
        yield _sm(context, "blackwell", f"SM {context.platform.sm} is newer than this release", "0.17.0 or newer")


def _sm(context: BuildContext, rule: str, detail: str, expected: str) -> Problem:
    detail += f" by TensorRT-LLM {context.release.version}"
    return Problem(pointer="/platform/sm", code=rule, detail=detail, value=context.platform.sm, expected=expected)


def precision(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        return
    for need in _NEEDS:
        if getattr(context.spec.precision, need.field) == need.word and context.sm < need.sm:
            yield Problem(
                pointer=f"/precision/{need.field}",
                code=need.rule,
                detail=f"SM {context.platform.sm} has no {need.word}; it needs SM {need.sm} or newer",
                value=need.word,
                expected=_alternatives(context, need),
            )


def _alternatives(context: BuildContext, lacking: _Need) -> str:
    if lacking.field == "dtype":
        return "float16 or float32"
    named: dict[str, tuple[object, ...]] = getattr(precision_recipes(), lacking.field)
    beyond = {
        need.word
        for need in _NEEDS
        if need.field == lacking.field and context.sm < need.sm and in_force(need.rule, context.release.version)
    }
    return ", ".join(["null", *(word for word in named if word not in beyond)])


def sm100(context: BuildContext) -> Iterator[Problem]:
    if not _BLACKWELL <= context.sm < _AFTER_SM100:
        return
    word = context.spec.precision.quantization
    if word in WEIGHT_ONLY | SCALED_PER_CHANNEL_OR_TOKEN | {SMOOTH}:
        yield _sm100_refuses(context, "quantization", "null, fp8, nvfp4")
    if has_int8_cache(context):
        yield _sm100_refuses(context, "kv_cache", "null, fp8")


def _sm100_refuses(context: BuildContext, field: str, expected: str) -> Problem:
    word = getattr(context.spec.precision, field)
    detail = f"the builder refuses {word} on SM {context.platform.sm}"
    return Problem(pointer=f"/precision/{field}", code="sm100_int", detail=detail, value=word, expected=expected)


def plugins(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        return
    if context.sm == _BLACKWELL:
        for name in _SM100_REFUSED:
            if context.option_value(name) not in (None, "disable"):
                yield refused_option(context, "sm100_plugins", name, "the release refuses it on SM 100", "disable")
    elif context.sm != _HOPPER and context.option_value("gemm_swiglu_plugin") not in (None, "disable"):
        detail = f"it is for SM {_HOPPER} only, and this is SM {context.platform.sm}"
        yield refused_option(context, "swiglu_sm", "gemm_swiglu_plugin", detail, "disable")


def fp8_attention(context: BuildContext) -> Iterator[Problem]:
    name = "use_fp8_context_fmha"
    if context.platform.gpu is None or context.spec.precision.quantization != "fp8" or not context.enabled(name):
        return
    for rule, needed in (("fp8_fmha_hopper", _HOPPER), ("fp8_fmha_ada", 89)):
        if context.sm < needed:
            detail = f"FP8 context attention needs SM {needed} or newer, and this is SM {context.platform.sm}"
            yield refused_option(context, rule, name, detail, "disable")


CHECKS: tuple[Check, ...] = (gpu, precision, sm100, plugins, fp8_attention)
