"""Check what the script and the builder need of the two engines of an encoder-decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, comma_separated, divisors, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.positions import WHISPER_FRAMES

_MAX_LISTED_RANKS = 64  # more are possible, but not worth listing


def attention(context: BuildContext) -> Iterator[Problem]:
    # Source: examples/models/core/enc_dec/README.md @57702ebc.
    # NVIDIA's test builds Whisper without it, for the Python runtime (test_whisper.py @2128203c).
    if context.family_name == "whisper":
        return
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


def audio_length(context: BuildContext) -> Iterator[Problem]:
    """A Whisper reads 3000 frames, 30 seconds. Its convolutions make 1500 positions of them, always so before 0.13."""
    if context.family_name != "whisper":
        return
    length = context.limits.max_input_len
    positions = WHISPER_FRAMES // 2
    # Source: examples/whisper/README.md @05316d33 @bca9a33b.
    if length < positions:
        detail = f"this release pads each audio to 30 seconds, which are {positions} positions"
        yield _audio_problem("whisper_positions", detail, length, str(positions))
    # Source: tensorrt_llm/models/enc_dec/model.py @b7868dd1.
    if length > WHISPER_FRAMES:
        detail = f"the encoder takes {WHISPER_FRAMES} frames at most, 30 seconds of audio"
        yield _audio_problem("whisper_frames", detail, length, f"{WHISPER_FRAMES}, or fewer for shorter audio")


def _audio_problem(rule: str, detail: str, length: int, expected: str) -> Problem:
    return Problem(pointer="/limits/max_input_len", code=rule, detail=detail, value=length, expected=expected)


CHECKS: tuple[Check, ...] = (attention, kv_cache, widths, audio_length)
