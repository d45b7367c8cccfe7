"""Check speculative decoding: draft lengths, draft heads, and the second model that has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, either, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.widths import head_size

# Eagle's bounds, from tensorrt_llm/builder.py @aaacc9bd.
_EAGLE_MAX_SEQUENCES, _EAGLE_MAX_DRAFT = 512, 256
# Modes that draft a tree. Sources: examples/eagle/README.md @585c7565, examples/redrafter/README.md @a35c38f3.
_TREE_MODES, _TREE_MIN_SM = ("eagle", "explicit_draft_tokens"), 80


class _HeadSizes(NamedTuple):
    """Head sizes for which the releases of a rule have kernels of several query tokens (issues #2879 and #6067)."""

    rule: str
    sizes: tuple[int, ...]
    also: tuple[int, ...] = ()  # on newer GPUs
    also_from_sm: int = 0


# Source: decoderMaskedMultiheadAttention/cubin/xqa_kernel_cubin.h of 0.9 to 0.17; data/rules.json has the commits.
_HEAD_SIZES = (
    _HeadSizes("draft_head_015", (128,)),
    _HeadSizes("draft_head_016", (128,), also=(64,), also_from_sm=90),
    _HeadSizes("draft_head", (64, 128)),
)


def draft_length(context: BuildContext) -> Iterator[Problem]:
    draft_len = context.number("max_draft_len")
    # trtllm-build asserts it since 0.9 (tensorrt_llm/commands/build.py @008b2b8d).
    if draft_len and context.option_value("gather_context_logits"):
        detail = "logits of the prompt cannot be gathered together with draft tokens"
        yield refused_option(context, "logits_draft", "gather_context_logits", detail, "false, or max_draft_len 0")
    # Our rule: the heads draft what the checkpoint states, whatever length the builder is told.
    max_drafted = context.max_drafted_tokens
    if max_drafted and draft_len not in (0, max_drafted):
        detail = f"the draft heads of the checkpoint draft {max_drafted} tokens at most"
        yield refused_option(context, "draft_len_other", "max_draft_len", detail, f"{max_drafted}, or unset")


def dtype(context: BuildContext) -> Iterator[Problem]:
    heads = context.draft_heads
    # `checks.precisions.precision` reports an `auto` that is left.
    if heads and context.dtype not in (*heads.dtypes, "auto"):
        yield Problem(
            pointer="/precision/dtype",
            code="draft_dtype",
            detail=f"heads for {context.draft_mode} are not documented in {context.dtype}",
            value=context.dtype,
            expected=" or ".join(heads.dtypes),
        )


def second_model(context: BuildContext) -> Iterator[Problem]:
    """Compare the config.json of the model with the heads. A worker would see a mismatch minutes later, or pad it."""
    heads = context.draft_heads
    if heads is None:
        return
    config = context.facts.beside.get(heads.model_option)
    if config is None:
        return
    reasons = []
    # The heads read the base model's hidden states, and the loader pads weights of another shape with a warning alone
    # (tensorrt_llm/models/eagle/model.py @06255cb7, tensorrt_llm/models/model_weights_loader.py @04a2cacb).
    for field in heads.shared_fields:
        of_base = getattr(context.facts, field)
        if field in config and of_base not in (None, config[field]):
            reasons.append(f"its {field} is {config[field]}, and the model's {of_base}")
    # The script reads these without a default (examples/redrafter/convert_checkpoint.py @31a9cd42).
    for field in heads.required_fields:
        if field in config:
            continue
        reasons.append(f"its config.json has no {field}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list):
        architectures = []
    if context.draft_mode == "eagle" and any("eagle3" in str(name).lower() for name in architectures):
        reasons.append("it has heads of EAGLE-3, and the script takes those of EAGLE-1 and 2")
    if reasons:
        yield Problem(
            pointer=f"/options/{heads.model_option}",
            code="draft_model",
            detail="; ".join(reasons),
            value=context.option_value(heads.model_option),
            expected=f"heads for {context.draft_mode} that were trained with this model",
        )


def eagle(context: BuildContext) -> Iterator[Problem]:
    if context.option_value("speculative_decoding_mode") != "eagle":
        return
    if context.limits.max_batch_size > _EAGLE_MAX_SEQUENCES:
        yield Problem(
            pointer="/limits/max_batch_size",
            code="eagle",
            detail="Eagle takes no more sequences at once",
            value=context.limits.max_batch_size,
            expected=f"≤ {_EAGLE_MAX_SEQUENCES}",
        )
    if context.number("max_draft_len") > _EAGLE_MAX_DRAFT:
        expected = f"≤ {_EAGLE_MAX_DRAFT}"
        yield refused_option(context, "eagle", "max_draft_len", "Eagle takes no longer drafts", expected)


def draft_trees(context: BuildContext) -> Iterator[Problem]:
    mode = context.option_value("speculative_decoding_mode")
    if mode not in _TREE_MODES:
        return
    # Eagle's network asserts a paged cache (tensorrt_llm/models/eagle/model.py @06255cb7). ReDrafter is documented with
    # one (examples/redrafter/README.md @a35c38f3).
    if context.option_value("kv_cache_type") not in (None, "paged"):
        detail = f"{mode} needs a paged KV cache"
        yield refused_option(context, "draft_cache", "kv_cache_type", detail, "paged, or unset")
    # ReDrafter's network is for packed input (tensorrt_llm/models/redrafter/model.py @1d263f15).
    if mode != "eagle" and not context.enabled("remove_input_padding"):
        yield refused_option(context, "draft_packing", "remove_input_padding", f"{mode} needs packed input", "enable")
    if context.platform.gpu is not None and context.sm < _TREE_MIN_SM:
        yield Problem(
            pointer="/platform/sm",
            code="draft_sm",
            detail=f"{mode} needs SM {_TREE_MIN_SM} or newer",
            value=context.platform.sm,
            expected=f"SM {_TREE_MIN_SM} or newer",
        )


def beams(context: BuildContext) -> Iterator[Problem]:
    # Source: docs/source/advanced/speculative-decoding.md @aaacc9bd, examples/draft_target_model/README.md @42a7b092.
    mode, beams = context.option_value("speculative_decoding_mode"), context.limits.max_beam_width
    if mode is not None and beams > 1:
        yield Problem(
            pointer="/limits/max_beam_width",
            code="draft_beams",
            detail=f"{mode} does not go with beam search",
            value=beams,
            expected="1",
            remedy="set max_beam_width 1, or leave speculative_decoding_mode out",
        )


def kernels(context: BuildContext) -> Iterator[Problem]:
    """Few GPUs and head sizes have the kernels that verify a draft. The engine asks for them when it first runs."""
    mode = context.option_value("speculative_decoding_mode")
    if mode is None or context.platform.gpu is None:
        return
    # `draft_trees` reports GPUs that are too old for trees.
    if context.sm < _TREE_MIN_SM and mode not in _TREE_MODES:
        yield _no_kernel(context, "draft_ampere", f"SM {context.platform.sm}", f"SM {_TREE_MIN_SM} or newer")
    # Issue #6158 of NVIDIA/TensorRT-LLM.
    if 100 <= context.sm < 120:
        yield _no_kernel(context, "draft_sm100", f"SM {context.platform.sm}", "SM 80, 86, 89 or 90")
    # A draft of another engine is verified as a prompt is read, by kernels that every head size has.
    size = head_size(context)
    if mode == "draft_tokens_external" or size is None:
        return
    # The same kernels read a paged cache in these blocks alone (decoderXQAImplPrecompiled.cpp @42a7b092).
    if context.number("tokens_per_block", 64) not in (64, 128):
        detail = f"{mode} has no kernels for other blocks of the KV cache"
        yield refused_option(context, "draft_blocks", "tokens_per_block", detail, "64 or 128")
    for need in _HEAD_SIZES:
        sizes = need.sizes
        if context.sm >= need.also_from_sm:
            sizes += need.also
        if size not in sizes:
            yield _no_kernel(context, need.rule, f"heads of {size} elements", f"heads of {either(sizes)} elements")


def _no_kernel(context: BuildContext, rule: str, lacking: str, expected: str) -> Problem:
    mode = context.option_value("speculative_decoding_mode")
    detail = f"{mode} has no kernels for {lacking} in TensorRT-LLM {context.release.version}"
    expected = f"{expected}, or unset"
    return refused_option(context, rule, "speculative_decoding_mode", detail, expected)


def eagle_positions(context: BuildContext) -> Iterator[Problem]:
    scaling = context.facts.rope_scaling
    # Source: examples/eagle/convert_checkpoint.py @42a7b092 @65b31db1.
    if context.draft_mode == "eagle" and scaling:
        yield Problem(
            pointer="/model",
            code="eagle_rope",
            detail="the script for Eagle keeps the name of the model's rope_scaling and loses its numbers: "
            "the engine would count positions otherwise than the model",
            value=str(scaling.get("rope_type", scaling.get("type"))),
            expected="a model without rope_scaling",
            remedy="build it without Eagle, or take a model that scales no positions",
        )


CHECKS: tuple[Check, ...] = (
    draft_length,
    dtype,
    second_model,
    eagle,
    draft_trees,
    beams,
    kernels,
    eagle_positions,
)
