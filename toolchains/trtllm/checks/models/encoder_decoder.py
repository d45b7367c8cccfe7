"""Check what the script and the builder need of the two engines of an encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, comma_separated, divisors, refused_option
from toolchains.trtllm.context.build_context import BuildContext

_MAX_LISTED_RANKS = 64  # more are possible, but not worth listing


def attention(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/models/core/enc_dec/README.md @57702ebc.
    if context.is_encoder_decoder and context.option_value("gpt_attention_plugin") == "disable":
        detail = "a decoder that reads an encoder attends through this plugin alone"
        yield refused_option(context, "enc_dec_attention", "gpt_attention_plugin", detail, "auto, or a dtype")


def kv_cache(context: BuildContext) -> Iterator[Problem]:
    # Source: tensorrt_llm/commands/build.py @42a7b092, help of the option.
    if context.is_encoder_decoder and context.option_value("kv_cache_type") == "disabled":
        detail = "without a cache the decoder writes its first token and no other; the encoder has none anyway"
        yield refused_option(context, "enc_dec_cache", "kv_cache_type", detail, "paged, continuous, or null")


def widths(context: BuildContext) -> Iterator[Problem]:
    # The script asserts it (examples/models/core/enc_dec/helper.py @dca4f2cb). Scripts of other families pad a
    # vocabulary that does not divide.
    if not context.is_encoder_decoder:
        return
    facts, tp = context.facts, context.parallelism.tp
    divided = set()
    if facts.vocab_size:
        divided.add(facts.vocab_size)
    for stack in (facts.encoder, facts.decoder):
        if stack and stack.intermediate_size:
            divided.add(stack.intermediate_size)
    # tp divides every width if it divides their greatest common divisor, which is 0 if no width is stated.
    common_divisor = math.gcd(*divided)
    if common_divisor % tp:
        legal = [size for size in divisors(common_divisor) if size <= _MAX_LISTED_RANKS]
        listed = comma_separated(sorted(divided))
        yield Problem(
            pointer="/parallelism/tp",
            code="enc_dec_tp",
            detail=f"vocabulary and MLPs of {listed} cannot all be divided among {tp} ranks",
            value=tp,
            expected=f"tp may be {comma_separated(legal)}",
        )


CHECKS: tuple[Check, ...] = (attention, kv_cache, widths)
