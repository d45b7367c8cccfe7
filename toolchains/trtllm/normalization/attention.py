"""Rewrites of paged and FP8 context attention, which the builder switches by precision and GPU.

Releases before 0.20 have both off by default, refuse what does not go together, and switch on what must be on. Later
ones have both on and switch off what cannot be on.
"""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import has_fp8_cache, has_fp8_workflow, has_int8_cache
from toolchains.trtllm.normalization.change import Change, idle_option, option_change
from toolchains.trtllm.releases.rule_table import in_force

_PAGED, _FP8 = "use_paged_context_fmha", "use_fp8_context_fmha"
_MIN_FP8_SM = 89
_TURING_SM, _AMPERE_SM, _ORIN_SM = 75, 80, 87


def disable_without_kernels(context: BuildContext) -> Iterator[Change]:
    # The plugin asserts that it knows the GPU (fmhaRunner.cpp of 0.8.0 to 0.14.0 and @42a7b092; issues #320, #1515 and
    # #1516 of NVIDIA/TensorRT-LLM).
    reason = f"there is no fused context attention for SM {context.platform.sm}"
    for rule, is_affected in (
        ("turing_fmha", _TURING_SM <= context.sm < _AMPERE_SM),
        ("orin_fmha", context.sm == _ORIN_SM),
    ):
        if is_affected:
            yield option_change(rule, "context_fmha", "disable", reason)
            yield option_change(rule, _PAGED, "disable", reason)


def switch_context_attention(context: BuildContext) -> Iterator[Change]:
    # The builder switches paged attention on for Eagle last, after everything that may have switched it off.
    is_eagle = context.option_value("speculative_decoding_mode") == "eagle"
    is_since_020 = in_force("fmha_off", context.release.version)
    changes = _changes_before_020(context)
    if is_since_020:
        changes = _changes_since_020(context)
    for change in changes:
        if not (is_eagle and change.name == _PAGED):
            yield change
    if is_eagle:
        yield option_change("eagle_paged", _PAGED, "enable", "Eagle needs it")


def _changes_before_020(context: BuildContext) -> Iterator[Change]:
    # Source: tensorrt_llm/builder.py @9bd15f19 @aaacc9bd.
    if not has_fp8_workflow(context):
        yield from idle_option(context, "fp8_fmha_plain", _FP8, "no weights are FP8")
    elif has_fp8_cache(context) and context.enabled(_PAGED):
        reason = "paged context attention over an FP8 KV cache needs it"
        yield option_change("fp8_fmha_forced", _FP8, "enable", reason)


def _changes_since_020(context: BuildContext) -> Iterator[Change]:
    """One condition decides, in the builder's order; streaming and an int8 KV cache act in addition to it."""
    # Source: tensorrt_llm/builder.py of main, about Oct 2025.
    is_paged = context.enabled(_PAGED)
    if context.enabled("streamingllm") and in_force("streamingllm_paged", context.release.version):
        is_paged = False
        yield option_change("streamingllm_paged", _PAGED, "disable", "it does not go with streamingllm")

    if not context.enabled("context_fmha"):
        yield option_change("fmha_off", _FP8, "disable", "context_fmha is disabled")
        yield option_change("fmha_off", _PAGED, "disable", "context_fmha is disabled")
    elif not has_fp8_workflow(context):
        yield from idle_option(context, "fp8_fmha_plain", _FP8, "no weights are FP8")
        if has_fp8_cache(context):
            reason = "over an FP8 KV cache it needs FP8 weights"
            yield option_change("paged_fmha_fp8kv_off", _PAGED, "disable", reason)
    elif context.sm < _MIN_FP8_SM:
        yield option_change("fp8_fmha_sm", _FP8, "disable", f"it needs SM {_MIN_FP8_SM}")
        if has_fp8_cache(context):
            reason = "over an FP8 KV cache it needs FP8 attention"
            yield option_change("fp8_fmha_sm", _PAGED, "disable", reason)
    elif is_paged and has_fp8_cache(context):
        reason = "paged context attention over an FP8 KV cache needs it"
        yield option_change("fp8_fmha_forced", _FP8, "enable", reason)
    elif is_paged:
        reason = "with paged context attention it needs an FP8 KV cache"
        yield option_change("fp8_fmha_no_kv", _FP8, "disable", reason)

    if has_int8_cache(context):
        yield option_change("paged_fmha_int8_off", _PAGED, "disable", "it does not go with an int8 KV cache")
