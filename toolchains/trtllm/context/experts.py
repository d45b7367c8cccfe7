"""How a model's experts are spread over the ranks of tensor parallelism."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext


def expert_sizes(context: BuildContext) -> tuple[int, int] | None:
    """(tensor parallel, expert parallel) inside experts, -1 resolved; None if they do not multiply to tp."""
    tp, inner, outer = context.parallelism.tp, context.number("moe_tp_size", -1), context.number("moe_ep_size", -1)
    if inner == -1:
        inner = tp if outer == -1 else tp // max(outer, 1)
    if outer == -1:
        outer = tp // max(inner, 1)
    return (inner, outer) if inner * outer == tp else None
