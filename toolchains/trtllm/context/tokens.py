"""How many tokens are in flight, as the builder of a release reckons it from the other limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginefarm.contract.spec import Limits
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.option_table import OptionTable


@dataclass(frozen=True)
class Step:
    """One step of the reckoning: the rule that made it, what counts from then on, and why."""

    rule: str
    most: int | None  # max_num_tokens
    best: int | None  # opt_num_tokens
    why: str


def takes_output_length(table: OptionTable) -> bool:
    """Releases before 0.11 are told the output's length instead of the total, and count tokens of the input alone."""
    return "max_seq_len" not in table.by_name


def default_max_num_tokens(limits: Limits, table: OptionTable) -> int:
    """What trtllm-build starts from when max_num_tokens is left out."""
    default = table.by_name["max_num_tokens"].default
    return default if isinstance(default, int) else limits.max_batch_size * limits.max_input_len


def default_opt_num_tokens(limits: Limits) -> int:
    """What trtllm-build takes when opt_num_tokens is left out; `limits` has its max_num_tokens."""
    sequences = limits.max_batch_size * limits.max_beam_width
    return min(sequences, limits.max_num_tokens or sequences)


def steps(context: BuildContext) -> Iterator[Step]:
    """In the builder's own order; the last one says what counts."""
    if context.enabled("remove_input_padding"):
        yield from _packed(context)
    elif takes_output_length(context.release.build_table):
        yield Step("tokens_ignored", None, None, "it is ignored without remove_input_padding")
    else:
        full = context.limits.max_batch_size * _each(context)
        yield Step("no_packing", full, None, "without remove_input_padding it is max_batch_size × max_seq_len")


def _packed(context: BuildContext) -> Iterator[Step]:
    """opt_num_tokens is derived before max_num_tokens is bounded, and bounded after it."""
    limits, table = context.limits, context.release.build_table
    output_only, best = takes_output_length(table), limits.opt_num_tokens
    most = limits.max_num_tokens or default_max_num_tokens(limits, table)
    yield Step("tokens_unset" if output_only else "tokens_default", most, best, "what the release takes if left out")
    if best is None and "opt_num_tokens" in table.by_name and not context.enabled("multiple_profiles"):
        best = limits.max_batch_size * limits.max_beam_width
        best = best if output_only else min(best, most)
        yield Step("opt_default", most, best, "max_batch_size × max_beam_width, no more than max_num_tokens")
    for step in _bounds(context, most, best):
        most = step.most or most
        yield step
    if best is not None and best > most:
        best = most
        yield Step("opt_clip", most, best, "no more than max_num_tokens")
    if context.option_value("speculative_decoding_mode") and most < (least := _drafted(context)):
        yield Step("spec_tokens", least, best, "at least max_batch_size × (max_draft_len + 1)")


def _bounds(context: BuildContext, most: int, best: int | None) -> Iterator[Step]:
    limits = context.limits
    if most > limits.max_batch_size * _each(context):
        most = limits.max_batch_size * _each(context)
        yield Step("tokens_clip", most, best, "more than every sequence at its full length is never in flight")
    if context.enabled("context_fmha"):
        if most < (block := context.number("tokens_per_block")):
            yield Step("tokens_block", block, best, "at least tokens_per_block; enable chunked context to serve it")
    elif most < limits.max_input_len:
        yield Step("tokens_low", limits.max_input_len, best, "at least max_input_len without context_fmha")


def _each(context: BuildContext) -> int:
    """The tokens of one sequence; of an encoder-decoder those that the encoder reads."""
    input_alone = takes_output_length(context.release.build_table) or context.is_encoder_decoder
    return context.limits.max_input_len if input_alone else context.limits.seq_len


def _drafted(context: BuildContext) -> int:
    return context.limits.max_batch_size * (context.number("max_draft_len") + 1)
