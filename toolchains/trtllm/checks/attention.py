"""Check attention options, in releases that refuse a combination instead of switching one of them off."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import has_fp8_cache, has_fp8_workflow, has_int8_cache

_TURING = 75  # compute capability
_PAGED, _FP8 = "use_paged_context_fmha", "use_fp8_context_fmha"
_FP32_ACCUMULATION = "context_fmha_fp32_acc"


def paged_attention(context: BuildContext) -> Iterator[Problem]:
    """Releases from 0.20 switch it off instead: see `normalization.attention`."""
    if not context.enabled(_PAGED):
        return
    # A rule of the releases before 0.10, which assert it in the plugin (gptAttentionCommon.cpp @5955b8af @250d9c29).
    if context.platform.gpu is not None and context.sm < _TURING and context.enabled("context_fmha"):
        detail = f"paged context attention has no kernels for SM {context.platform.sm}"
        yield refused_option(context, "paged_fmha_volta", _PAGED, detail, "disable")
    # The builder asserts them (tensorrt_llm/builder.py @250d9c29 @9bd15f19 @aaacc9bd).
    if has_int8_cache(context):
        detail = "paged context attention does not go with an int8 KV cache"
        yield refused_option(context, "paged_fmha_int8", _PAGED, detail, "disable, or precision.kv_cache null")
    if has_fp8_cache(context):
        # A rule of 0.9: later releases take FP8 weights with it.
        detail = "paged context attention does not go with an FP8 KV cache"
        yield refused_option(context, "paged_fmha_fp8kv_09", _PAGED, detail, "disable, or precision.kv_cache null")
    if has_fp8_cache(context) and not has_fp8_workflow(context):
        detail = "paged context attention over an FP8 KV cache needs FP8 weights"
        yield refused_option(context, "paged_fmha_fp8kv", _PAGED, detail, "disable, or quantization fp8")


def fp8_attention(context: BuildContext) -> Iterator[Problem]:
    """From 0.20 the builder switches it off where it does not go with the KV cache, or without context attention."""
    if not context.enabled(_FP8) or not has_fp8_workflow(context):
        return
    # The plugin asks for the scales of an FP8 KV cache (issues #2112, #2125 and #2447 of NVIDIA/TensorRT-LLM).
    if not has_fp8_cache(context):
        detail = "FP8 context attention needs an FP8 KV cache"
        yield refused_option(context, "fp8_fmha_kv", _FP8, detail, "disable, or precision.kv_cache fp8")
    # The plugin asserts it (gptAttentionCommon.cpp of 0.9.0 to 0.14.0).
    if not context.enabled("context_fmha"):
        detail = "FP8 context attention is a form of context attention, and context_fmha is disable"
        yield refused_option(context, "fp8_fmha_alone", _FP8, detail, "disable, or context_fmha enable")


def fp32_accumulation(context: BuildContext) -> Iterator[Problem]:
    # The plugin asserts it (gptAttentionCommon.cpp of 0.8.0 to 0.14.0).
    if context.platform.gpu is not None and context.sm < _TURING and context.enabled(_FP32_ACCUMULATION):
        detail = f"context attention accumulates in FP16 alone on SM {context.platform.sm}"
        yield refused_option(context, "fp32_acc_volta", _FP32_ACCUMULATION, detail, "disable")


def latent_attention(context: BuildContext) -> Iterator[Problem]:
    """The plugin asserts what multi-head latent attention needs."""
    # Source: gptAttentionCommon.cpp @42a7b092.
    if not context.facts.kv_lora_rank:
        return
    for name in ("context_fmha", "remove_input_padding"):
        if context.option_value(name) == "disable":
            detail = "multi-head latent attention needs it"
            yield refused_option(context, "mla_attention", name, detail, "enable")
    if context.option_value("kv_cache_type") not in (None, "paged"):
        detail = "multi-head latent attention needs a paged KV cache"
        yield refused_option(context, "mla_attention", "kv_cache_type", detail, "paged, or unset")


def streamingllm(context: BuildContext) -> Iterator[Problem]:
    if not context.enabled("streamingllm"):
        return
    # Two rules, one in force after the other. From 1.2: tensorrt_llm/commands/build.py @65f1d153.
    yield refused_option(context, "streamingllm", "streamingllm", "the release refuses it", "disable")
    # Up to 1.1: tensorrt_llm/commands/build.py @aaacc9bd.
    if context.architecture != "LlamaForCausalLM":
        yield refused_option(context, "streamingllm_llama", "streamingllm", "it is for Llama only", "disable")
    # The plugin asserts it when it first runs (gptAttentionCommon.cpp of 0.10.0 to 0.14.0, an error in the log before).
    if context.enabled(_PAGED):
        detail = "paged context attention does not go with streamingllm"
        yield refused_option(context, "streamingllm_fmha", _PAGED, detail, "disable, or streamingllm disable")


CHECKS: tuple[Check, ...] = (paged_attention, fp8_attention, fp32_accumulation, latent_attention, streamingllm)
