"""Rewrites of options that an encoder-decoder cannot use. Source: examples/models/core/enc_dec/README.md @57702ebc."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.change import Change, option_change


def disable_experts(context: BuildContext) -> Iterator[Change]:
    if context.is_encoder_decoder:
        yield option_change("enc_dec_moe", "moe_plugin", "disable", "no encoder-decoder has experts")


def disable_fused_attention(context: BuildContext) -> Iterator[Change]:
    if context.family and context.family.relative_attention:
        yield option_change("relative_fmha", "context_fmha", "disable", "no fused kernel attends by relative positions")


def pad_whisper(context: BuildContext) -> Iterator[Change]:
    """The first releases have neither packed input nor a paged cache for Whisper."""
    # Source: examples/whisper/README.md @05316d33 @bca9a33b.
    if context.family_name == "whisper":
        reason = "Whisper runs so until 0.12, in the Python runtime"
        yield option_change("whisper_padded", "remove_input_padding", "disable", reason)
        yield option_change("whisper_padded", "paged_kv_cache", "disable", reason)
