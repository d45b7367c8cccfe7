"""How a model's experts are spread over the ranks of tensor parallelism."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext

# An option of the scripts before 0.11, which know the one or the other (tensorrt_llm/layers/moe.py of 0.8.0 to 0.10.0).
EXPERT_MODE, EXPERT_PARALLEL = "moe_tp_mode", 1


def expert_sizes(context: BuildContext) -> tuple[int, int] | None:
    """Tensor parallelism inside experts, and expert parallelism: moe_tp_size and moe_ep_size with -1 resolved.

    The rules are those of tensorrt_llm/mapping.py @aaacc9bd.

    Returns:
        None if the two do not multiply to tp.
    """
    tp = context.parallelism.tp
    if context.option_value(EXPERT_MODE) == EXPERT_PARALLEL:
        return 1, tp
    moe_tp = context.number("moe_tp_size", -1)
    moe_ep = context.number("moe_ep_size", -1)
    # max(…, 1): a size of 0 must not divide. Its product is not tp either, so that it is refused.
    if moe_tp == -1 and moe_ep == -1:
        moe_tp = tp
    elif moe_tp == -1:
        moe_tp = tp // max(moe_ep, 1)
    if moe_ep == -1:
        moe_ep = tp // max(moe_tp, 1)
    # Floor division above: a size that does not divide tp shows here.
    if moe_tp * moe_ep != tp:
        return None
    return moe_tp, moe_ep
