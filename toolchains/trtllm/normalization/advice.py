"""What is worth knowing of a normalised spec, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.documented_precisions import undocumented
from toolchains.trtllm.releases.engine_part import engine_parts
from toolchains.trtllm.releases.rule_table import in_force

_LARGE_TOKENS = 16384
_STATED_ROPE = frozenset({"su", "longrope", "llama3"})  # their positions already hold the factor


def advice(context: BuildContext) -> list[Problem]:
    found = (*_tokens(context), *_positions(context), *_input(context), *_precision(context), *_halves(context))
    return [remark for remark in found if in_force(remark.code, context.release.version)]


def _tokens(context: BuildContext) -> Iterator[Problem]:
    if context.enabled("remove_input_padding") and (tokens := context.limits.max_num_tokens or 0) > _LARGE_TOKENS:
        yield Problem(
            pointer="/limits/max_num_tokens",
            code="tokens_large",
            detail=f"{tokens} packed tokens cost memory and rarely gain speed beyond {_LARGE_TOKENS}",
            value=tokens,
        )


def _positions(context: BuildContext) -> Iterator[Problem]:
    positions = _known_positions(context)
    if positions is None or context.enabled("streamingllm"):
        return
    for part in engine_parts(context.facts.architecture):
        length, limit = part.lengths(context.limits)["max_seq_len"]
        if length > positions:
            yield Problem(
                pointer=f"/limits/{limit}",
                code="seq_too_long",
                detail=f"the model knows {positions} positions; what it says beyond them may be nonsense",
                value=length,
                expected=f"≤ {positions}",
            )


def _known_positions(context: BuildContext) -> int | None:
    """How many positions the model was made for, by the builder's own reckoning."""
    known, scaling = context.facts.max_position_embeddings, context.facts.rope_scaling or {}
    family = context.release.family(context.facts.architecture)
    if family and family.relative_attention:
        return None
    if known is None or scaling.get("rope_type", scaling.get("type")) in _STATED_ROPE:
        return known
    factor = scaling.get("factor", 1)
    return int(known * factor) if isinstance(factor, int | float) and factor > 0 else known


def _input(context: BuildContext) -> Iterator[Problem]:
    if not context.is_encoder_decoder and context.enabled("remove_input_padding") and context.enabled("context_fmha"):
        yield Problem(
            pointer="/limits/max_input_len",
            code="input_ignored",
            detail="with packed input and context attention it is no limit of its own: "
            f"a prompt may be as long as max_seq_len, {context.limits.seq_len}",
            value=context.limits.max_input_len,
        )


def _precision(context: BuildContext) -> Iterator[Problem]:
    missing = undocumented(context.facts.architecture, context.spec.precision.quantization)
    if missing and not in_force("precision_model", context.release.version):
        yield Problem(
            pointer="/precision/quantization",
            code="precision_undocumented",
            detail=f"the documentation of 0.16 does not have it for {missing.model}; later releases may take it",
            value=context.spec.precision.quantization,
            expected=missing.expected,
        )


def _halves(context: BuildContext) -> Iterator[Problem]:
    if context.is_encoder_decoder and context.parallelism.pp > 1:
        yield Problem(
            pointer="/parallelism/pp",
            code="enc_dec_pp",
            detail="only the Python runtime of the examples runs an encoder-decoder in stages: the C++ one, and so "
            "Triton, does not",
            value=context.parallelism.pp,
            expected="1",
        )
    family = context.release.family(context.facts.architecture)
    if family and family.relative_attention and context.dtype == "float16":
        yield Problem(
            pointer="/precision/dtype",
            code="t5_float16",
            detail="Flan-T5 is known to go wrong in float16, whatever runs it",
            value="float16",
            expected="bfloat16 or float32",
        )
