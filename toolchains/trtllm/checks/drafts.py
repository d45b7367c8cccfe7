"""Drafts, and the heads that make them."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import Case

_EAGLE_SEQUENCES, _EAGLE_DRAFT = 512, 256
_BY_TREES, _BY_TREES_SM = ("eagle", "explicit_draft_tokens"), 80


def lengths(case: Case) -> Iterator[Problem]:
    drafted = case.number("max_draft_len")
    if drafted and case.option("gather_context_logits"):
        detail = "logits of the prompt cannot be gathered together with draft tokens"
        yield refused_option(case, "logits_draft", "gather_context_logits", detail, "false, or max_draft_len 0")
    if case.drafted and drafted not in (0, case.drafted):
        detail = f"the draft heads of the checkpoint draft {case.drafted} tokens at most"
        yield refused_option(case, "draft_len_other", "max_draft_len", detail, f"{case.drafted}, or unset")


def dtype(case: Case) -> Iterator[Problem]:
    """`auto` is no dtype yet, and said elsewhere."""
    known = case.drafting
    if known and case.dtype not in (*known.dtypes, "auto"):
        yield Problem(
            pointer="/precision/dtype", code="draft_dtype", detail=f"heads for {case.draft} are not known in it",
            value=case.dtype, expected=" or ".join(known.dtypes),
        )  # fmt: skip


def second_model(case: Case) -> Iterator[Problem]:
    """Where it was read: a worker sees it minutes later, or pads what does not fit."""
    known = case.drafting
    said = case.facts.beside.get(known.heads) if known else None
    if known is None or said is None:
        return
    unlike = [
        f"its {name} is {said[name]}, and the model's {getattr(case.facts, name)}"
        for name in known.same
        if name in said and getattr(case.facts, name) not in (None, said[name])
    ]
    unlike += [f"its config.json has no {name}" for name in known.says if name not in said]
    if case.draft == "eagle" and any("eagle3" in str(name).lower() for name in said.get("architectures") or ()):
        unlike.append("it has heads of EAGLE-3, and the script knows those of EAGLE-1 and 2")
    if unlike:
        yield Problem(
            pointer=f"/options/{known.heads}", code="draft_model", detail="; ".join(unlike),
            value=case.option(known.heads), expected=f"heads for {case.draft} that were trained with this model",
        )  # fmt: skip


def eagle(case: Case) -> Iterator[Problem]:
    if case.option("speculative_decoding_mode") != "eagle":
        return
    if (batch := case.limits.max_batch_size) > _EAGLE_SEQUENCES:
        yield Problem(
            pointer="/limits/max_batch_size", code="eagle", detail="Eagle takes no more sequences at once",
            value=batch, expected=f"≤ {_EAGLE_SEQUENCES}",
        )  # fmt: skip
    if case.number("max_draft_len") > _EAGLE_DRAFT:
        yield refused_option(case, "eagle", "max_draft_len", "Eagle takes no longer drafts", f"≤ {_EAGLE_DRAFT}")


def trees(case: Case) -> Iterator[Problem]:
    mode = case.option("speculative_decoding_mode")
    if mode not in _BY_TREES:
        return
    if case.option("kv_cache_type") not in (None, "paged"):
        yield refused_option(case, "draft_cache", "kv_cache_type", f"{mode} needs a paged KV cache", "paged, or unset")
    if mode != "eagle" and not case.enabled("remove_input_padding"):
        yield refused_option(case, "draft_packing", "remove_input_padding", f"{mode} needs packed input", "enable")
    if case.platform.gpu is not None and case.sm < _BY_TREES_SM:
        yield Problem(
            pointer="/platform/sm", code="draft_sm", detail=f"{mode} needs SM {_BY_TREES_SM} or newer",
            value=case.platform.sm, expected=f"SM {_BY_TREES_SM} or newer",
        )  # fmt: skip


def eagle_positions(case: Case) -> Iterator[Problem]:
    if case.draft == "eagle" and case.facts.rope_scaling:
        yield Problem(
            pointer="/model",
            code="eagle_rope",
            detail="the script for Eagle keeps the name of the model's rope_scaling and loses its numbers: "
            "the engine would count positions otherwise than the model",
            value=str(case.facts.rope_scaling.get("rope_type", case.facts.rope_scaling.get("type"))),
            expected="a model without rope_scaling",
            remedy="build it without Eagle, or take a model that scales no positions",
        )


CHECKS: tuple[Check, ...] = (lengths, dtype, second_model, eagle, trees, eagle_positions)
