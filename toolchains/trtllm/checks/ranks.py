"""How a model can be divided among ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, divisors, listed, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import expert_sizes
from toolchains.trtllm.releases.model_family import family_names


def heads(context: BuildContext) -> Iterator[Problem]:
    counts, kv_count, tp = (
        _of_each(context, "num_attention_heads"),
        context.facts.num_key_value_heads,
        context.parallelism.tp,
    )
    for count in counts:
        if count % tp:
            yield _tensor_parallel(context, "heads_tp", f"{count} attention heads cannot be divided among {tp} ranks")
            break
    if kv_count and kv_count % tp and tp % kv_count:
        detail = f"{kv_count} key/value heads can be neither divided among nor duplicated over {tp} ranks"
        yield _tensor_parallel(context, "kv_heads_tp", detail)


def _of_each(context: BuildContext, name: str) -> list[int]:
    """Of both halves of an encoder-decoder, the smaller number first; of any other model the one that it has."""
    facts = context.facts
    stacks = [half for half in (facts.encoder, facts.decoder) if half] if context.is_encoder_decoder else [facts]
    return sorted({count for stack in stacks if (count := getattr(stack, name))})


def _tensor_parallel(context: BuildContext, rule: str, detail: str) -> Problem:
    counts, kv = _of_each(context, "num_attention_heads"), context.facts.num_key_value_heads or 1
    common = divisors(math.gcd(*counts)) if counts else []
    legal = [tp for tp in common if kv % tp == 0 or tp % kv == 0]
    expected = f"tp may be {listed(legal)}" if legal else None
    return Problem(pointer="/parallelism/tp", code=rule, detail=detail, value=context.parallelism.tp, expected=expected)


def layers(context: BuildContext) -> Iterator[Problem]:
    counts, pp = _of_each(context, "num_hidden_layers"), context.parallelism.pp
    if undivided := [count for count in counts if count % pp]:
        yield Problem(
            pointer="/parallelism/pp",
            code="pp_layers",
            detail=f"{undivided[0]} layers do not divide into {pp} stages, and the release may lose the rest silently",
            value=pp,
            expected=f"pp may be {listed(divisors(math.gcd(*counts)))}",
        )
    if pp > 1 and family_names().get(context.facts.architecture) == "phi":
        detail = "the script of Phi makes one stage"
        yield Problem(pointer="/parallelism/pp", code="phi_pp", detail=detail, value=pp, expected="pp may be 1")


def experts(context: BuildContext) -> Iterator[Problem]:
    sizes, tp = expert_sizes(context), context.parallelism.tp
    if sizes is None:
        given = [context.option_value("moe_tp_size"), context.option_value("moe_ep_size")]
        expected = f"moe_tp_size × moe_ep_size = {tp}, or -1 for what follows from the other"
        detail = f"moe_tp_size {given[0]} × moe_ep_size {given[1]} is not tp {tp}"
        yield _expert_parallel("moe_tp_ep", detail, given, expected)
        return
    count, size = context.facts.num_experts, sizes[1]
    if count and count % size:
        detail = f"{count} experts do not divide into {size} ranks, and the release would lose the rest silently"
        legal = [ep for ep in divisors(count) if tp % ep == 0]
        yield _expert_parallel("experts_ep", detail, size, f"moe_ep_size may be {listed(legal)}")
    if context.parallelism.cp > 1 and size > 1:
        detail = f"expert parallelism ({size}) and context parallelism ({context.parallelism.cp}) exclude each other"
        yield _expert_parallel("cp_moe", detail, size, "moe_ep_size 1, or cp 1")


def _expert_parallel(rule: str, detail: str, value: object, expected: str) -> Problem:
    return Problem(pointer="/options/moe_ep_size", code=rule, detail=detail, value=value, expected=expected)


def packing(context: BuildContext) -> Iterator[Problem]:
    if context.parallelism.cp > 1 and not context.enabled("remove_input_padding"):
        detail = "context parallelism needs packed input"
        yield refused_option(context, "cp_packing", "remove_input_padding", detail, "enable")


CHECKS: tuple[Check, ...] = (heads, layers, experts, packing)
