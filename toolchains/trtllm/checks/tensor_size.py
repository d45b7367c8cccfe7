"""Tensors that TensorRT cannot hold: 2^31 elements are too many in one."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.engine_part import relative_bias_elements

_TENSOR_ELEMENTS = 1 << 31
_NARROWEST = 128  # elements a token has at least, so that tokens beyond a spec's own bound never pass


def activations(context: BuildContext) -> Iterator[Problem]:
    width = max(context.facts.hidden_size or 0, context.facts.intermediate_size or 0, _NARROWEST)
    if context.is_encoder_decoder:
        yield from _inputs(context, width)
        return
    yield from _tokens(context, width, f"{width} elements")
    if context.option_value("gather_context_logits") and (vocabulary := context.facts.vocab_size):
        yield from _tokens(context, vocabulary, f"{vocabulary} words of the vocabulary (gather_context_logits)")


def _tokens(context: BuildContext, width: int, words: str) -> Iterator[Problem]:
    limits = context.limits
    tokens = limits.max_num_tokens or limits.max_batch_size * limits.max_input_len
    if tokens * width >= _TENSOR_ELEMENTS:
        yield Problem(
            pointer="/limits/max_num_tokens",
            code="volume",
            detail=f"{tokens} tokens × {words} is more than TensorRT's 2^31 elements a tensor",
            value=tokens,
            expected=f"< {-(-_TENSOR_ELEMENTS // width)}",
            remedy="lower max_num_tokens, and max_batch_size or the lengths if it follows from them",
        )


def _inputs(context: BuildContext, width: int) -> Iterator[Problem]:
    """Both engines of an encoder-decoder take every input at its full length, whatever max_num_tokens says."""
    each = context.limits.max_input_len * width
    if context.limits.max_batch_size * each >= _TENSOR_ELEMENTS:
        yield Problem(
            pointer="/limits/max_batch_size",
            code="volume",
            detail=f"{context.limits.max_batch_size} inputs × {each} elements are more than TensorRT's 2^31 a tensor",
            value=context.limits.max_batch_size,
            expected=f"< {-(-_TENSOR_ELEMENTS // each)}, or a shorter max_input_len",
        )


def unpaged_cache(context: BuildContext) -> Iterator[Problem]:
    """The keys and values of a layer are one tensor unless the cache is paged."""
    facts, limits = context.facts, context.limits
    if context.option_value("kv_cache_type") != "continuous" or not (facts.hidden_size and facts.num_attention_heads):
        return
    heads = facts.num_key_value_heads or facts.num_attention_heads
    length = (
        max(limits.max_input_len, limits.seq_len - limits.max_input_len)
        if context.is_encoder_decoder
        else limits.seq_len
    )
    each = 2 * -(-heads // context.parallelism.tp) * (facts.hidden_size // facts.num_attention_heads) * length
    sequences = limits.max_batch_size * limits.max_beam_width
    if sequences * each >= _TENSOR_ELEMENTS:
        yield Problem(
            pointer="/options/kv_cache_type",
            code="volume",
            detail=f"a continuous KV cache of {sequences} sequences × {each} elements a layer "
            "is more than TensorRT's 2^31 elements a tensor",
            value="continuous",
            expected=f"paged, or max_batch_size × max_beam_width < {-(-_TENSOR_ELEMENTS // each)}",
        )


def relative_bias(context: BuildContext) -> Iterator[Problem]:
    """The decoder holds a bias for each pair of positions, unless it computes them on the fly."""
    elements = relative_bias_elements(context.facts, context.spec)
    if elements >= _TENSOR_ELEMENTS:
        yield Problem(
            pointer="/limits/max_output_len",
            code="volume",
            detail=f"the table of relative positions has {elements} elements, and TensorRT takes 2^31 in a tensor",
            value=context.limits.max_output_len,
            expected="a shorter output, more tp, or use_implicit_relative_attention",
        )


CHECKS: tuple[Check, ...] = (activations, unpaged_cache, relative_bias)
