"""Check attention options, in releases that refuse a combination instead of switching one of them off."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import has_fp8_cache, has_fp8_workflow, has_int8_cache

_PAGED = "use_paged_context_fmha"


def paged_attention(context: BuildContext) -> Iterator[Problem]:
    """Releases from 0.20 switch it off instead: see `normalization.attention`."""
    if not context.enabled(_PAGED):
        return
    # Both combinations are asserted in tensorrt_llm/builder.py @9bd15f19 @aaacc9bd (0.10 to before 0.20).
    if has_int8_cache(context):
        detail = "paged context attention does not go with an int8 KV cache"
        yield refused_option(context, "paged_fmha_int8", _PAGED, detail, "disable")
    if has_fp8_cache(context) and not has_fp8_workflow(context, since_020=False):
        detail = "paged context attention over an FP8 KV cache needs FP8 weights"
        yield refused_option(context, "paged_fmha_fp8kv", _PAGED, detail, "disable, or quantization fp8")


def streamingllm(context: BuildContext) -> Iterator[Problem]:
    if not context.enabled("streamingllm"):
        return
    # Two rules, one in force after the other. From 1.2: tensorrt_llm/commands/build.py @65f1d153.
    yield refused_option(context, "streamingllm", "streamingllm", "the release refuses it", "disable")
    # Up to 1.1: tensorrt_llm/commands/build.py @aaacc9bd.
    if context.architecture != "LlamaForCausalLM":
        yield refused_option(context, "streamingllm_llama", "streamingllm", "it is for Llama only", "disable")


CHECKS: tuple[Check, ...] = (paged_attention, streamingllm)
