"""What becomes of paged and FP8 context attention, which the builder switches by precision and GPU.

Releases before 0.20 have both off by default, refuse what does not go together, and switch on what must be; later
ones have both on and switch off what cannot be.
"""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import has_fp8_cache, has_fp8_workflow, has_int8_cache
from toolchains.trtllm.normalization.change import Change, idle, option
from toolchains.trtllm.releases.rule_table import in_force

_PAGED, _FP8 = "use_paged_context_fmha", "use_fp8_context_fmha"
_FP8_SM = 89


def context_attention(context: BuildContext) -> Iterator[Change]:
    """Eagle has the last word on paged attention."""
    eagle = context.option_value("speculative_decoding_mode") == "eagle"
    yield from (change for change in _switched(context) if not (eagle and change.name == _PAGED))
    if eagle:
        yield option("eagle_paged", _PAGED, "enable", "Eagle needs it")


def _switched(context: BuildContext) -> Iterator[Change]:
    """One reason decides, in the builder's order; streaming and an int8 KV cache come on top."""
    if not in_force("fmha_off", context.release.version):
        yield from _before_020(context)
        return
    paged = context.enabled(_PAGED)
    if context.enabled("streamingllm") and in_force("streamingllm_paged", context.release.version):
        paged = False
        yield option("streamingllm_paged", _PAGED, "disable", "it does not go with streamingllm")
    if not context.enabled("context_fmha"):
        for name in (_FP8, _PAGED):
            yield option("fmha_off", name, "disable", "context_fmha is disabled")
    elif not has_fp8_workflow(context, widened=True):
        yield from _without_fp8_weights(context)
    elif context.sm < _FP8_SM:
        yield from _without_fp8_hardware(context)
    elif paged:
        yield from _with_fp8_weights(context)
    if has_int8_cache(context):
        yield option("paged_fmha_int8_off", _PAGED, "disable", "it does not go with an int8 KV cache")


def _before_020(context: BuildContext) -> Iterator[Change]:
    if not has_fp8_workflow(context, widened=False):
        yield from idle(context, "fp8_fmha_plain", _FP8, "no weights are FP8")
    elif has_fp8_cache(context) and context.enabled(_PAGED):
        yield option("fp8_fmha_forced", _FP8, "enable", "paged context attention over an FP8 KV cache needs it")


def _without_fp8_weights(context: BuildContext) -> Iterator[Change]:
    yield from idle(context, "fp8_fmha_plain", _FP8, "no weights are FP8")
    if has_fp8_cache(context):
        yield option("paged_fmha_fp8kv_off", _PAGED, "disable", "over an FP8 KV cache it needs FP8 weights")


def _without_fp8_hardware(context: BuildContext) -> Iterator[Change]:
    yield option("fp8_fmha_sm", _FP8, "disable", f"it needs SM {_FP8_SM}")
    if has_fp8_cache(context):
        yield option("fp8_fmha_sm", _PAGED, "disable", "over an FP8 KV cache it needs FP8 attention")


def _with_fp8_weights(context: BuildContext) -> Iterator[Change]:
    if has_fp8_cache(context):
        yield option("fp8_fmha_forced", _FP8, "enable", "paged context attention over an FP8 KV cache needs it")
    else:
        yield option("fp8_fmha_no_kv", _FP8, "disable", "with paged context attention it needs an FP8 KV cache")
