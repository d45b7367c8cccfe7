"""Drafts, and the heads that make them."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext

_EAGLE_SEQUENCES, _EAGLE_DRAFT = 512, 256
_BY_TREES, _BY_TREES_SM = ("eagle", "explicit_draft_tokens"), 80


def lengths(context: BuildContext) -> Iterator[Problem]:
    drafted = context.number("max_draft_len")
    if drafted and context.option_value("gather_context_logits"):
        detail = "logits of the prompt cannot be gathered together with draft tokens"
        yield refused_option(context, "logits_draft", "gather_context_logits", detail, "false, or max_draft_len 0")
    if context.max_drafted_tokens and drafted not in (0, context.max_drafted_tokens):
        detail = f"the draft heads of the checkpoint draft {context.max_drafted_tokens} tokens at most"
        yield refused_option(
            context, "draft_len_other", "max_draft_len", detail, f"{context.max_drafted_tokens}, or unset"
        )


def dtype(context: BuildContext) -> Iterator[Problem]:
    """`auto` is no dtype yet, and said elsewhere."""
    known = context.draft_heads
    if known and context.dtype not in (*known.dtypes, "auto"):
        yield Problem(
            pointer="/precision/dtype",
            code="draft_dtype",
            detail=f"heads for {context.draft_mode} are not known in it",
            value=context.dtype,
            expected=" or ".join(known.dtypes),
        )


def second_model(context: BuildContext) -> Iterator[Problem]:
    """Where it was read: a worker sees it minutes later, or pads what does not fit."""
    known = context.draft_heads
    said = context.facts.beside.get(known.model_option) if known else None
    if known is None or said is None:
        return
    unlike = [
        f"its {name} is {said[name]}, and the model's {getattr(context.facts, name)}"
        for name in known.shared_fields
        if name in said and getattr(context.facts, name) not in (None, said[name])
    ]
    unlike += [f"its config.json has no {name}" for name in known.required_fields if name not in said]
    if context.draft_mode == "eagle" and any("eagle3" in str(name).lower() for name in said.get("architectures") or ()):
        unlike.append("it has heads of EAGLE-3, and the script knows those of EAGLE-1 and 2")
    if unlike:
        yield Problem(
            pointer=f"/options/{known.model_option}",
            code="draft_model",
            detail="; ".join(unlike),
            value=context.option_value(known.model_option),
            expected=f"heads for {context.draft_mode} that were trained with this model",
        )


def eagle(context: BuildContext) -> Iterator[Problem]:
    if context.option_value("speculative_decoding_mode") != "eagle":
        return
    if (batch := context.limits.max_batch_size) > _EAGLE_SEQUENCES:
        yield Problem(
            pointer="/limits/max_batch_size", code="eagle", detail="Eagle takes no more sequences at once",
            value=batch, expected=f"≤ {_EAGLE_SEQUENCES}",
        )  # fmt: skip
    if context.number("max_draft_len") > _EAGLE_DRAFT:
        yield refused_option(context, "eagle", "max_draft_len", "Eagle takes no longer drafts", f"≤ {_EAGLE_DRAFT}")


def trees(context: BuildContext) -> Iterator[Problem]:
    mode = context.option_value("speculative_decoding_mode")
    if mode not in _BY_TREES:
        return
    if context.option_value("kv_cache_type") not in (None, "paged"):
        yield refused_option(
            context, "draft_cache", "kv_cache_type", f"{mode} needs a paged KV cache", "paged, or unset"
        )
    if mode != "eagle" and not context.enabled("remove_input_padding"):
        yield refused_option(context, "draft_packing", "remove_input_padding", f"{mode} needs packed input", "enable")
    if context.platform.gpu is not None and context.sm < _BY_TREES_SM:
        yield Problem(
            pointer="/platform/sm", code="draft_sm", detail=f"{mode} needs SM {_BY_TREES_SM} or newer",
            value=context.platform.sm, expected=f"SM {_BY_TREES_SM} or newer",
        )  # fmt: skip


def eagle_positions(context: BuildContext) -> Iterator[Problem]:
    if context.draft_mode == "eagle" and context.facts.rope_scaling:
        yield Problem(
            pointer="/model",
            code="eagle_rope",
            detail="the script for Eagle keeps the name of the model's rope_scaling and loses its numbers: "
            "the engine would count positions otherwise than the model",
            value=str(context.facts.rope_scaling.get("rope_type", context.facts.rope_scaling.get("type"))),
            expected="a model without rope_scaling",
            remedy="build it without Eagle, or take a model that scales no positions",
        )


CHECKS: tuple[Check, ...] = (lengths, dtype, second_model, eagle, trees, eagle_positions)
