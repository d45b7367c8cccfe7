"""What the programs of a release make of a value without refusing it. Applied before the key, so that two
requests which give one engine have one key. Each is named as in `data/rules.json`.

Order matters: the precision settles first, then the options, and last the token limits that follow from them.
"""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.attention import context_attention
from toolchains.trtllm.normalization.change import Change, Rewrite
from toolchains.trtllm.normalization.encoder_decoder import no_experts, relative_attention
from toolchains.trtllm.normalization.limits import draft_length, token_limits
from toolchains.trtllm.normalization.network import adapted_modules, experts, fp8_typed, logits, logits_of_generation
from toolchains.trtllm.normalization.plugins import fusion, gemm, nccl, plugin_dtypes
from toolchains.trtllm.normalization.precision import auto_quantize, dtype, model_precision
from toolchains.trtllm.releases.rule_table import in_force

__all__ = ["FIRST", "REWRITES", "Change", "Rewrite", "idle_options"]

FIRST: tuple[Rewrite, ...] = (model_precision,)  # the precision decides which options there are

REWRITES: tuple[Rewrite, ...] = (
    dtype,
    auto_quantize,
    plugin_dtypes,
    nccl,
    fusion,
    gemm,
    fp8_typed,
    logits,
    logits_of_generation,
    adapted_modules,
    experts,
    no_experts,
    relative_attention,
    context_attention,
    draft_length,
    token_limits,
)


def idle_options(context: BuildContext) -> frozenset[str]:
    """The options that have no effect in this context, whatever their values."""
    changes = (change for rewrite in REWRITES for change in rewrite(context))
    return frozenset(
        change.name for change in changes if change.idle and in_force(change.rule, context.release.version)
    )
