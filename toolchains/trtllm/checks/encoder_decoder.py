"""What the script and the builder ask of the two halves of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, divisors, listed, refused_option
from toolchains.trtllm.context.build_context import BuildContext

_MOST_RANKS = 64  # that are worth listing


def attention(context: BuildContext) -> Iterator[Problem]:
    if context.is_encoder_decoder and context.option_value("gpt_attention_plugin") == "disable":
        detail = "a decoder that reads an encoder attends through this plugin alone"
        yield refused_option(context, "enc_dec_attention", "gpt_attention_plugin", detail, "auto, or a dtype")


def cache(context: BuildContext) -> Iterator[Problem]:
    if context.is_encoder_decoder and context.option_value("kv_cache_type") == "disabled":
        detail = "without a cache the decoder writes its first token and no other; the encoder has none anyway"
        yield refused_option(context, "enc_dec_cache", "kv_cache_type", detail, "paged, continuous, or null")


def widths(context: BuildContext) -> Iterator[Problem]:
    """Its script asserts that what it splits divides; of other families a vocabulary is padded."""
    facts, tp = context.facts, context.parallelism.tp
    halves = [half.intermediate_size for half in (facts.encoder, facts.decoder) if half]
    split = [width for width in (facts.vocab_size, *halves) if width]
    if context.is_encoder_decoder and any(width % tp for width in split):
        legal = [size for size in divisors(split[0]) if all(width % size == 0 for width in split)]
        yield Problem(
            pointer="/parallelism/tp",
            code="enc_dec_tp",
            detail=f"vocabulary and MLPs of {listed(sorted(set(split)))} cannot all be divided among {tp} ranks",
            value=tp,
            expected=f"tp may be {listed([size for size in legal if size <= _MOST_RANKS])}",
        )


CHECKS: tuple[Check, ...] = (attention, cache, widths)
