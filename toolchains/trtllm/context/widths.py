"""Widths of a model's matrices, as far as config.json states them."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.experts import expert_sizes

# Models whose config.json has no width of the MLP, because it is always four times hidden_size.
_FOURFOLD = frozenset(
    {"GPT2LMHeadModel", "GPTJForCausalLM", "BloomForCausalLM", "FalconForCausalLM", "RWForCausalLM", "MPTForCausalLM"}
)
# The first Qwen counts gate and up projection together (tensorrt_llm/models/qwen/config.py @42a7b092).
_HALVED = frozenset({"QWenLMHeadModel", "QWenForCausalLM"})


def head_size(context: BuildContext) -> int | None:
    """Elements of one attention head; None if config.json does not say it."""
    facts = context.facts
    if facts.head_dim:
        return facts.head_dim
    if not facts.hidden_size or not facts.num_attention_heads:
        return None
    return facts.hidden_size // facts.num_attention_heads


def split_widths(context: BuildContext) -> dict[str, tuple[int, int]]:
    """Name → (width, ranks) of each dimension that ranks divide and the next matrix multiplies over.

    The input of the last matrix of an MLP, and that of the output projection of attention.
    """
    facts, tp = context.facts, context.parallelism.tp
    widths = {}
    mlp = _mlp_width(context)
    if facts.num_experts and mlp:
        # Ranks of expert parallelism have whole experts.
        sizes = expert_sizes(context)
        if sizes is not None:
            widths["the width of an expert"] = (mlp, sizes[0])
    elif mlp:
        widths["intermediate_size"] = (mlp, tp)
    size = head_size(context)
    if size and facts.num_attention_heads:
        widths["attention heads × head size"] = (facts.num_attention_heads * size, tp)
    return widths


def _mlp_width(context: BuildContext) -> int | None:
    facts = context.facts
    if facts.num_experts and facts.moe_intermediate_size:
        return facts.moe_intermediate_size
    if facts.intermediate_size and facts.architecture in _HALVED:
        return facts.intermediate_size // 2
    if facts.intermediate_size is None and facts.hidden_size and facts.architecture in _FOURFOLD:
        return 4 * facts.hidden_size
    return facts.intermediate_size
