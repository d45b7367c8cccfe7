"""Attention over a KV cache that it does not go with, where the release refuses instead of switching it off."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import has_fp8_cache, has_fp8_workflow, has_int8_cache

_PAGED = "use_paged_context_fmha"


def paged(context: BuildContext) -> Iterator[Problem]:
    if not context.enabled(_PAGED):
        return
    if has_int8_cache(context):
        detail = "paged context attention does not go with an int8 KV cache"
        yield refused_option(context, "paged_fmha_int8", _PAGED, detail, "disable")
    if has_fp8_cache(context) and not has_fp8_workflow(context, widened=False):
        detail = "paged context attention over an FP8 KV cache needs FP8 weights"
        yield refused_option(context, "paged_fmha_fp8kv", _PAGED, detail, "disable, or quantization fp8")


def streaming(context: BuildContext) -> Iterator[Problem]:
    if not context.enabled("streamingllm"):
        return
    yield refused_option(context, "streamingllm", "streamingllm", "the release refuses it", "disable")
    if context.architecture != "LlamaForCausalLM":
        yield refused_option(context, "streamingllm_llama", "streamingllm", "it is for Llama only", "disable")


CHECKS: tuple[Check, ...] = (paged, streaming)
