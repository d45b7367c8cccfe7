"""Check options that contradict each other, the precision or the model."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import WEIGHT_ONLY

_SWIGLU_PLUGINS = ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin")
# Plugins that take tensors of the dtype that they are given and of no other. moe_plugin takes its layer's, and the
# builder decides nccl_plugin.
_TYPED_PLUGINS = ("gemm_plugin", "gpt_attention_plugin", "lora_plugin", "mamba_conv1d_plugin")
_DTYPES = ("float16", "bfloat16", "float32", "int32")  # without fp8 and nvfp4, which go with other dtypes
_LOAD_BY_SHARD = "load_by_shard"
_GATED = frozenset({"llama", "internlm", "internlm2", "skywork", "qwen", "gemma", "baichuan"})  # families


def multiple_profiles(context: BuildContext) -> Iterator[Problem]:
    # Since 0.9 (tensorrt_llm/commands/build.py @008b2b8d).
    if context.enabled("multiple_profiles") and context.limits.opt_num_tokens is not None:
        detail = "several profiles have several token counts: opt_num_tokens cannot be given with them"
        yield refused_option(context, "opt_profiles", "multiple_profiles", detail, "disable, or no opt_num_tokens")


def plugin_dtypes(context: BuildContext) -> Iterator[Problem]:
    # TensorRT finds no format for such a plugin (gemmPlugin.cpp, supportsFormatCombination, and
    # tensorrt_llm/functional.py of 0.8.0 to 0.14.0; issue #1077 and pull request #11246 of NVIDIA/TensorRT-LLM).
    for name in _TYPED_PLUGINS:
        value = context.option_value(name)
        # `checks.precisions.precision` reports an `auto` that is left.
        if value in _DTYPES and value != context.dtype and context.dtype != "auto":
            detail = f"the network is {context.dtype}, and the plugin would take {value} alone"
            yield refused_option(context, "plugin_dtype_other", name, detail, f"auto, {context.dtype} or disable")


def cache_blocks(context: BuildContext) -> Iterator[Problem]:
    # The cache asserts it when the engine runs (cpp/tensorrt_llm/kernels/kvCacheUtils.h of 0.8.0 to 0.14.0).
    tokens = context.number("tokens_per_block", 1)
    if tokens < 1 or tokens & (tokens - 1):
        detail = "a block of the KV cache has a number of tokens that is a power of two"
        yield refused_option(context, "block_power", "tokens_per_block", detail, "16, 32, 64 or 128")


def load_by_shard(context: BuildContext) -> Iterator[Problem]:
    # The llama script asserts it (examples/llama/convert_checkpoint.py and tensorrt_llm/models/llama of 0.9.0 to 0.14.0
    # and @be178810).
    if not context.option_value(_LOAD_BY_SHARD) or context.conversion is None:
        return
    reason = None
    if context.facts.num_experts:
        reason = "a model with experts"
    elif context.facts.architecture == "ExaoneForCausalLM":
        reason = "EXAONE"
    elif context.conversion.calibrates and not context.conversion.is_quantize:
        reason = "a calibrated precision"
    if reason is not None:
        detail = f"the script does not load {reason} shard by shard"
        yield refused_option(context, "load_by_shard", _LOAD_BY_SHARD, detail, "false")


def weight_streaming(context: BuildContext) -> Iterator[Problem]:
    if context.option_value("weight_streaming") and context.is_plugin_enabled("gemm_plugin"):
        detail = "weights cannot be streamed to the GEMM plugin"
        yield refused_option(context, "weight_streaming", "gemm_plugin", detail, "disable")


def managed_weights(context: BuildContext) -> Iterator[Problem]:
    # fast_build keeps the weights in a file beside each engine.
    is_weight_only = context.spec.precision.quantization in WEIGHT_ONLY
    without_plugin = is_weight_only and context.option_value("disable_weight_only_quant_plugin")
    if without_plugin and context.option_value("fast_build"):
        detail = "weight-only quantization keeps its weights beside the engine only with its plugin"
        expected = "false, or disable_weight_only_quant_plugin false"
        yield refused_option(context, "manage_weights", "fast_build", detail, expected)


def stripped_plans(context: BuildContext) -> Iterator[Problem]:
    # trtllm-refit copies config.json and nothing else, so that other files of an engine would be lost.
    if not context.option_value("strip_plan"):
        return
    with_files = []
    if context.option_value("fast_build"):
        with_files.append("fast_build")
    if context.option_value("lora_dir"):
        with_files.append("lora_dir")
    # quant_cfg.json lists the precision of each layer.
    if context.spec.precision.quantization == "auto_quantize":
        with_files.append("auto_quantize")
    if with_files:
        detail = f"trtllm-refit carries config.json along and nothing else, and {with_files[0]} leaves files beside it"
        yield refused_option(context, "refit_side_files", "strip_plan", detail, "false")


def fused_mlp(context: BuildContext) -> Iterator[Problem]:
    # The builder raises it (fuse_gate_mlp of tensorrt_llm/models/modeling_utils.py of 0.8.0 to 0.11.0; 0.12 leaves such
    # layers as they are). Layers of experts and of SmoothQuant are of other classes.
    name = "use_fused_mlp"
    quantization = context.spec.precision.quantization
    is_affected = quantization in (*WEIGHT_ONLY, "w4a8_awq") and context.family_name in _GATED
    if context.option_value(name) is True and is_affected and not context.facts.num_experts:
        detail = f"the release fuses the MLP of plain and FP8 weights, and these are {quantization}"
        yield refused_option(context, "fused_mlp", name, detail, "false, or precision.quantization null or fp8")


def gemm_swiglu(context: BuildContext) -> Iterator[Problem]:
    # Both are asserted (tensorrt_llm/layers/mlp.py of 0.11.0 to 0.14.0).
    name = "gemm_swiglu_plugin"
    if not context.is_plugin_enabled(name):
        return
    if context.spec.precision.quantization is None:
        yield refused_option(context, "swiglu_fp8", name, "it is for FP8 weights", "disable, or quantization fp8")
    if context.dtype != "float16":
        detail = f"the release has it for float16 alone, and the network is {context.dtype}"
        yield refused_option(context, "swiglu_fp16", name, detail, "disable, or precision.dtype float16")


def swiglu_plugins(context: BuildContext) -> Iterator[Problem]:
    # A flag in some releases, enable or disable in others. A release without the option counts as fusing the MLP.
    has_option = "use_fused_mlp" in context.available_options
    if not has_option or context.option_value("use_fused_mlp") in (True, "enable"):
        return
    for name in _SWIGLU_PLUGINS:
        if context.is_plugin_enabled(name):
            detail = "it works on the fused MLP alone"
            yield refused_option(context, "swiglu", name, detail, "disable, or use_fused_mlp")


def reduce_scatter(context: BuildContext) -> Iterator[Problem]:
    if context.enabled("pp_reduce_scatter") and context.facts.architecture != "MixtralForCausalLM":
        yield refused_option(context, "pp_reduce_scatter", "pp_reduce_scatter", "it is for Mixtral only", "disable")


CHECKS: tuple[Check, ...] = (
    multiple_profiles,
    plugin_dtypes,
    cache_blocks,
    load_by_shard,
    weight_streaming,
    managed_weights,
    stripped_plans,
    fused_mlp,
    gemm_swiglu,
    swiglu_plugins,
    reduce_scatter,
)
