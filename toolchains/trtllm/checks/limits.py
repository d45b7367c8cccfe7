"""Check limits that a release has no option for."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext


def opt_num_tokens(context: BuildContext) -> Iterator[Problem]:
    """trtllm-build of 0.8 has no such option."""
    has_option = "opt_num_tokens" in context.release.build_table.by_name
    if not has_option and context.limits.opt_num_tokens is not None:
        yield Problem(
            pointer="/limits/opt_num_tokens",
            code="limit_unknown",
            detail=f"trtllm-build of TensorRT-LLM {context.release.version} has no option for it",
            value=context.limits.opt_num_tokens,
            expected="null",
            remedy="leave it out",
        )


def beam_width(context: BuildContext) -> Iterator[Problem]:
    # Beam search refuses more when the engine runs (beamSearchKernels.h @250d9c29 @42a7b092). 0.15 extended it.
    for rule, maximum in (("beams_64", 64), ("beams_256", 256)):
        if context.limits.max_beam_width > maximum:
            yield Problem(
                pointer="/limits/max_beam_width",
                code=rule,
                detail=f"beam search of TensorRT-LLM {context.release.version} takes no more beams",
                value=context.limits.max_beam_width,
                expected=f"≤ {maximum}",
            )


CHECKS: tuple[Check, ...] = (opt_num_tokens, beam_width)
