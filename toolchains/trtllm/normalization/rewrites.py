"""Every rewrite of the programs, in the order in which normalization applies them.

They are applied before the key is made, so that two requests for one engine have one key. Order matters: the precision
settles first, then the options, and last the token limits that follow from them.
"""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.attention import disable_without_kernels, switch_context_attention
from toolchains.trtllm.normalization.change import Rewrite
from toolchains.trtllm.normalization.encoder_decoder import (
    disable_experts,
    disable_fused_attention,
    pad_whisper,
)
from toolchains.trtllm.normalization.limits import derive_token_limits, make_room_for_images, set_draft_length
from toolchains.trtllm.normalization.network import (
    join_adapted_modules,
    name_variant,
    reset_expert_sizes,
    reset_generation_logits,
    spell_out_logits,
    type_fp8_network,
    unpack_input,
)
from toolchains.trtllm.normalization.plugins import (
    name_model_dtype_auto,
    reset_fusion,
    reset_nccl_plugin,
    use_nvfp4_gemm,
)
from toolchains.trtllm.normalization.precision import (
    bound_auto_quantize_bits,
    resolve_dtype,
    take_model_kv_cache,
    take_model_precision,
)
from toolchains.trtllm.releases.rule_table import in_force

# The precision decides which options there are, and that of the weights how the KV cache is made.
PRECISION_REWRITES: tuple[Rewrite, ...] = (take_model_precision, take_model_kv_cache)

REWRITES: tuple[Rewrite, ...] = (
    resolve_dtype,
    name_variant,
    bound_auto_quantize_bits,
    name_model_dtype_auto,
    reset_nccl_plugin,
    reset_fusion,
    use_nvfp4_gemm,
    type_fp8_network,
    unpack_input,
    spell_out_logits,
    reset_generation_logits,  # after spell_out_logits, which may set it
    join_adapted_modules,
    reset_expert_sizes,
    disable_experts,
    pad_whisper,
    disable_without_kernels,
    disable_fused_attention,  # both before switch_context_attention, which follows from them
    switch_context_attention,
    set_draft_length,
    make_room_for_images,
    derive_token_limits,
)


def idle_options(context: BuildContext) -> frozenset[str]:
    """The options that have no effect in this build, whatever their values."""
    names = set()
    for rewrite in REWRITES:
        for change in rewrite(context):
            if change.is_idle and in_force(change.rule, context.release.version):
                names.add(change.name)
    return frozenset(names)
