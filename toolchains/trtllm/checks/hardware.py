"""What this GPU cannot do, which the builder would find out late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.context.quantization import SCALED_PER_CHANNEL_OR_TOKEN, SMOOTH, WEIGHT_ONLY, has_int8_cache
from toolchains.trtllm.releases.precision_recipe import ways
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


def gpu(case: Case) -> Iterator[Problem]:
    if case.platform.gpu is None:
        detail = "TensorRT-LLM builds engines for GPUs, and this platform has none"
        yield Problem(
            pointer="/platform", code="needs_gpu", detail=detail, value=case.platform.label(),
            expected="a platform with gpu and sm",
        )  # fmt: skip
    elif case.sm < _TURING:
        yield _sm(case, "volta", f"SM {case.platform.sm} is no longer supported", f"SM {_TURING} or newer")
    elif case.sm >= _BLACKWELL:
        yield _sm(case, "blackwell", f"SM {case.platform.sm} is newer than this release", "0.17.0 or newer")


def _sm(case: Case, rule: str, detail: str, expected: str) -> Problem:
    detail += f" by TensorRT-LLM {case.release.version}"
    return Problem(pointer="/platform/sm", code=rule, detail=detail, value=case.platform.sm, expected=expected)


def precision(case: Case) -> Iterator[Problem]:
    if case.platform.gpu is None:
        return
    for need in _NEEDS:
        if getattr(case.spec.precision, need.field) == need.word and case.sm < need.sm:
            yield Problem(
                pointer=f"/precision/{need.field}",
                code=need.rule,
                detail=f"SM {case.platform.sm} has no {need.word}; it needs SM {need.sm} or newer",
                value=need.word,
                expected=_alternatives(case, need),
            )


def _alternatives(case: Case, lacking: _Need) -> str:
    if lacking.field == "dtype":
        return "float16 or float32"
    named: dict[str, tuple[object, ...]] = getattr(ways(), lacking.field)
    beyond = {
        need.word
        for need in _NEEDS
        if need.field == lacking.field and case.sm < need.sm and in_force(need.rule, case.release.version)
    }
    return ", ".join(["null", *(word for word in named if word not in beyond)])


def sm100(case: Case) -> Iterator[Problem]:
    if not _BLACKWELL <= case.sm < _AFTER_SM100:
        return
    word = case.spec.precision.quantization
    if word in WEIGHT_ONLY | SCALED_PER_CHANNEL_OR_TOKEN | {SMOOTH}:
        yield _sm100_refuses(case, "quantization", "null, fp8, nvfp4")
    if has_int8_cache(case):
        yield _sm100_refuses(case, "kv_cache", "null, fp8")


def _sm100_refuses(case: Case, field: str, expected: str) -> Problem:
    word = getattr(case.spec.precision, field)
    detail = f"the builder refuses {word} on SM {case.platform.sm}"
    return Problem(pointer=f"/precision/{field}", code="sm100_int", detail=detail, value=word, expected=expected)


def plugins(case: Case) -> Iterator[Problem]:
    if case.platform.gpu is None:
        return
    if case.sm == _BLACKWELL:
        for name in _SM100_REFUSED:
            if case.option(name) not in (None, "disable"):
                yield refused_option(case, "sm100_plugins", name, "the release refuses it on SM 100", "disable")
    elif case.sm != _HOPPER and case.option("gemm_swiglu_plugin") not in (None, "disable"):
        detail = f"it is for SM {_HOPPER} only, and this is SM {case.platform.sm}"
        yield refused_option(case, "swiglu_sm", "gemm_swiglu_plugin", detail, "disable")


def fp8_attention(case: Case) -> Iterator[Problem]:
    name = "use_fp8_context_fmha"
    if case.platform.gpu is None or case.spec.precision.quantization != "fp8" or not case.enabled(name):
        return
    for rule, needed in (("fp8_fmha_hopper", _HOPPER), ("fp8_fmha_ada", 89)):
        if case.sm < needed:
            detail = f"FP8 context attention needs SM {needed} or newer, and this is SM {case.platform.sm}"
            yield refused_option(case, rule, name, detail, "disable")


CHECKS: tuple[Check, ...] = (gpu, precision, sm100, plugins, fp8_attention)
