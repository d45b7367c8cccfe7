"""Check options that contradict each other, the precision or the model."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import WEIGHT_ONLY

_SWIGLU_PLUGINS = ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin")


def multiple_profiles(context: BuildContext) -> Iterator[Problem]:
    # Since 0.9 (tensorrt_llm/commands/build.py @008b2b8d).
    if context.enabled("multiple_profiles") and context.limits.opt_num_tokens is not None:
        detail = "several profiles have several token counts: opt_num_tokens cannot be given with them"
        yield refused_option(context, "opt_profiles", "multiple_profiles", detail, "disable, or no opt_num_tokens")


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
    weight_streaming,
    managed_weights,
    stripped_plans,
    swiglu_plugins,
    reduce_scatter,
)
