"""What becomes of options that say nothing to an encoder-decoder, or that one of its kinds cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.normalization.change import Change, option


def no_experts(case: Case) -> Iterator[Change]:
    if case.encodes:
        yield option("enc_dec_moe", "moe_plugin", "disable", "no encoder-decoder has experts")


def relative_attention(case: Case) -> Iterator[Change]:
    """Runs before the rewrites of attention, which follow from it."""
    family = case.release.family(case.facts.architecture)
    if family and family.relative:
        yield option("relative_fmha", "context_fmha", "disable", "no fused kernel attends by relative positions")
