"""What becomes of options that say nothing to an encoder-decoder, or that one of its kinds cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.change import Change, option


def no_experts(context: BuildContext) -> Iterator[Change]:
    if context.is_encoder_decoder:
        yield option("enc_dec_moe", "moe_plugin", "disable", "no encoder-decoder has experts")


def relative_attention(context: BuildContext) -> Iterator[Change]:
    """Runs before the rewrites of attention, which follow from it."""
    family = context.release.family(context.facts.architecture)
    if family and family.relative_attention:
        yield option("relative_fmha", "context_fmha", "disable", "no fused kernel attends by relative positions")
