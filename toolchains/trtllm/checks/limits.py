"""Check limits that a release has no option for."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext

_RECURRENT = frozenset({"mamba", "mamba2", "mamba_original", "recurrentgemma"})  # families


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
    version = context.release.version
    # Before 0.17 beam search refuses more when the engine runs (beamSearchKernels.h @250d9c29 @42a7b092). Later kernels
    # take 1024 (@be178810), but the release notes promise 256.
    for rule, maximum in (("beams_64", 64), ("beams_256", 256)):
        if context.limits.max_beam_width > maximum:
            detail = f"NVIDIA documents no more beams for TensorRT-LLM {version}"
            yield _beam_problem(context, rule, detail, f"≤ {maximum}")
    if context.limits.max_beam_width == 1:
        return
    # The builder asserts it (tensorrt_llm/models/mamba/model.py and recurrentgemma/model.py of 0.11.0 and 0.14.0).
    if context.family_name in _RECURRENT:
        detail = f"{context.facts.architecture} has a state for each sequence and takes no beam search"
        yield _beam_problem(context, "beams_recurrent", detail, "1")
    if context.is_encoder_decoder and context.enabled("paged_kv_cache"):
        detail = f"an encoder-decoder of TensorRT-LLM {version} with a paged KV cache takes no beam search"
        yield _beam_problem(context, "beams_enc_dec", detail, "1, or paged_kv_cache disable")


def _beam_problem(context: BuildContext, rule: str, detail: str, expected: str) -> Problem:
    value = context.limits.max_beam_width
    return Problem(pointer="/limits/max_beam_width", code=rule, detail=detail, value=value, expected=expected)


CHECKS: tuple[Check, ...] = (opt_num_tokens, beam_width)
