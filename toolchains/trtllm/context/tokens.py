"""max_num_tokens and opt_num_tokens, as the builder of a release derives them from the other limits.

Source: tensorrt_llm/_common.py @5955b8af @250d9c29 @9bd15f19 (before 0.11) and @0fccc5b9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginefarm.contract.spec import Limits
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.option_table import OptionTable


@dataclass(frozen=True)
class TokenLimitStep:
    """One step of the builder: the rule that it follows, both limits after it, and the reason."""

    rule: str
    max_num_tokens: int | None
    opt_num_tokens: int | None
    reason: str


def takes_output_length(build_table: OptionTable) -> bool:
    """True before 0.11: trtllm-build takes the output's length, not the total, and counts tokens of the input alone."""
    return "max_seq_len" not in build_table.by_name


def default_max_num_tokens(limits: Limits, build_table: OptionTable) -> int:
    """What trtllm-build starts from if max_num_tokens is left out."""
    default = build_table.by_name["max_num_tokens"].default
    if isinstance(default, int):
        return default
    return limits.max_batch_size * limits.max_input_len


def default_opt_num_tokens(limits: Limits) -> int:
    """What trtllm-build takes if opt_num_tokens is left out and max_num_tokens is that of `limits`."""
    sequences = limits.max_batch_size * limits.max_beam_width
    return min(sequences, limits.max_num_tokens or sequences)


def token_limit_steps(context: BuildContext) -> Iterator[TokenLimitStep]:
    """In the builder's own order; both limits are those of the last step."""
    if context.enabled("remove_input_padding"):
        yield from _steps_of_packed_input(context)
    elif takes_output_length(context.release.build_table):
        yield TokenLimitStep("tokens_ignored", None, None, "it is ignored without remove_input_padding")
    else:
        padded = context.limits.max_batch_size * _tokens_per_sequence(context)
        reason = "without remove_input_padding it is max_batch_size × max_seq_len"
        yield TokenLimitStep("no_packing", padded, None, reason)


def _steps_of_packed_input(context: BuildContext) -> Iterator[TokenLimitStep]:
    """The builder derives opt_num_tokens before it bounds max_num_tokens, and bounds opt_num_tokens after that."""
    limits = context.limits
    table = context.release.build_table
    is_before_011 = takes_output_length(table)

    # A spec without the limit starts from the program's own default, as the builder does.
    max_tokens = limits.max_num_tokens or default_max_num_tokens(limits, table)
    opt_tokens = limits.opt_num_tokens
    rule = "tokens_unset" if is_before_011 else "tokens_default"
    yield TokenLimitStep(rule, max_tokens, opt_tokens, "what the release takes if left out")

    # Several profiles have several token counts, so that no single one is derived for them.
    has_one_profile = "opt_num_tokens" in table.by_name and not context.enabled("multiple_profiles")
    if opt_tokens is None and has_one_profile:
        opt_tokens = limits.max_batch_size * limits.max_beam_width
        # Releases before 0.11 bound it later, together with a given one.
        if not is_before_011:
            opt_tokens = min(opt_tokens, max_tokens)
        reason = "max_batch_size × max_beam_width, no more than max_num_tokens"
        yield TokenLimitStep("opt_default", max_tokens, opt_tokens, reason)

    all_tokens = limits.max_batch_size * _tokens_per_sequence(context)
    if max_tokens > all_tokens:
        max_tokens = all_tokens
        reason = "more than every sequence at its full length is never in flight"
        yield TokenLimitStep("tokens_clip", max_tokens, opt_tokens, reason)
    # At least one block of the paged cache, or one whole prompt, has to be in flight.
    if context.enabled("context_fmha"):
        block = context.number("tokens_per_block")
        if max_tokens < block:
            max_tokens = block
            reason = "at least tokens_per_block; enable chunked context to serve it"
            yield TokenLimitStep("tokens_block", max_tokens, opt_tokens, reason)
    elif max_tokens < limits.max_input_len:
        max_tokens = limits.max_input_len
        yield TokenLimitStep("tokens_low", max_tokens, opt_tokens, "at least max_input_len without context_fmha")

    if opt_tokens is not None and opt_tokens > max_tokens:
        opt_tokens = max_tokens
        yield TokenLimitStep("opt_clip", max_tokens, opt_tokens, "no more than max_num_tokens")
    if context.option_value("speculative_decoding_mode"):
        # One token of the base model for each sequence, and the draft (tensorrt_llm/builder.py @aaacc9bd).
        drafted = limits.max_batch_size * (context.number("max_draft_len") + 1)
        if max_tokens < drafted:
            yield TokenLimitStep("spec_tokens", drafted, opt_tokens, "at least max_batch_size × (max_draft_len + 1)")


def _tokens_per_sequence(context: BuildContext) -> int:
    """The tokens of one sequence at its longest. Only the encoder of an encoder-decoder counts tokens, of its input."""
    if takes_output_length(context.release.build_table) or context.is_encoder_decoder:
        return context.limits.max_input_len
    return context.limits.seq_len
