"""Check the largest tensors: TensorRT takes fewer than 2^31 elements in one, and fails after minutes otherwise.

The limit is TensorRT's (issues #2422 and #2204 of NVIDIA/TensorRT-LLM), the products are our estimate. All problems
have the code `volume`, which is TensorRT's word for the number of elements.
"""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import expert_sizes
from toolchains.trtllm.releases.engine_part import encoder_positions, relative_bias_elements

_MAX_ELEMENTS = 1 << 31
_MIN_WIDTH = 128  # elements of a token at least, so that a token limit above the contract's own bound never passes


def activations(context: BuildContext) -> Iterator[Problem]:
    """Of the widest layer of a rank, for every token in flight."""
    if context.is_encoder_decoder:
        return
    width = _widest_layer(context)
    # The logits of every token of the prompt are one tensor too, if they are gathered: of the whole vocabulary, because
    # each rank gets the logits of all.
    widths = [(width, f"{width} elements")]
    vocabulary = context.facts.vocab_size
    if context.option_value("gather_context_logits") and vocabulary:
        widths.append((vocabulary, f"{vocabulary} words of the vocabulary (gather_context_logits)"))
    limits = context.limits
    tokens = limits.max_num_tokens or limits.max_batch_size * limits.max_input_len
    for elements, described in widths:
        if tokens * elements >= _MAX_ELEMENTS:
            yield Problem(
                pointer="/limits/max_num_tokens",
                code="volume",
                detail=f"{tokens} tokens × {described} is more than TensorRT's 2^31 elements a tensor",
                value=tokens,
                expected=f"< {_too_many(elements)}",
                remedy="lower max_num_tokens, and max_batch_size or the lengths if it follows from them",
            )


def encoder_decoder_activations(context: BuildContext) -> Iterator[Problem]:
    """Of the widest layer, for every input of a batch."""
    if not context.is_encoder_decoder:
        return
    # Both engines take every input at its full length, whatever max_num_tokens is
    # (tensorrt_llm/models/enc_dec/model.py @04a2cacb).
    batch_size = context.limits.max_batch_size
    elements = encoder_positions(context.facts.architecture, context.limits) * _widest_layer(context)
    if batch_size * elements >= _MAX_ELEMENTS:
        yield Problem(
            pointer="/limits/max_batch_size",
            code="volume",
            detail=f"{batch_size} inputs × {elements} elements are more than TensorRT's 2^31 a tensor",
            value=batch_size,
            expected=f"< {_too_many(elements)}, or a shorter max_input_len",
        )


def unpaged_cache(context: BuildContext) -> Iterator[Problem]:
    """The keys and values of a layer are one tensor unless the cache is paged."""
    facts, limits = context.facts, context.limits
    if context.option_value("kv_cache_type") != "continuous" or not (facts.hidden_size and facts.num_attention_heads):
        return
    length = limits.seq_len
    if context.is_encoder_decoder:
        # The decoder caches its own output and, apart from it, what the encoder made of the input.
        length = max(encoder_positions(facts.architecture, limits), limits.seq_len - limits.max_input_len)
    heads = facts.num_key_value_heads or facts.num_attention_heads
    heads_per_rank = -(-heads // context.parallelism.tp)
    head_size = facts.hidden_size // facts.num_attention_heads
    elements = 2 * heads_per_rank * head_size * length  # keys and values
    sequences = limits.max_batch_size * limits.max_beam_width
    if sequences * elements >= _MAX_ELEMENTS:
        yield Problem(
            pointer="/options/kv_cache_type",
            code="volume",
            detail=f"a continuous KV cache of {sequences} sequences × {elements} elements a layer "
            "is more than TensorRT's 2^31 elements a tensor",
            value="continuous",
            expected=f"paged, or max_batch_size × max_beam_width < {_too_many(elements)}",
        )


def relative_bias(context: BuildContext) -> Iterator[Problem]:
    """The decoder has a bias for each pair of positions, unless it computes them while it runs."""
    elements = relative_bias_elements(context.facts, context.spec)
    if elements >= _MAX_ELEMENTS:
        yield Problem(
            pointer="/limits/max_output_len",
            code="volume",
            detail=f"the table of relative positions has {elements} elements, and TensorRT takes 2^31 in a tensor",
            value=context.limits.max_output_len,
            expected="a shorter output, more tp, or use_implicit_relative_attention",
        )


def _widest_layer(context: BuildContext) -> int:
    """Elements of one token in the widest layer of one rank, as far as the model states its sizes.

    Tensor parallelism divides the inner layer of the MLP, and with it an expert's. Each rank has whole hidden states.
    """
    ranks = context.parallelism.tp
    sizes = expert_sizes(context)
    # Expert parallelism gives a rank fewer experts, and not narrower ones.
    if context.facts.num_experts and sizes:
        ranks, _ = sizes
    intermediate_per_rank = -(-(context.facts.intermediate_size or 0) // ranks)
    return max(context.facts.hidden_size or 0, intermediate_per_rank, _MIN_WIDTH)


def _too_many(elements: int) -> int:
    """The smallest number of items, of so many elements each, that does not fit into one tensor."""
    return -(-_MAX_ELEMENTS // elements)


CHECKS: tuple[Check, ...] = (activations, encoder_decoder_activations, unpaged_cache, relative_bias)
