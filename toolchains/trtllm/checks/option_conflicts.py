"""Options that contradict each other, or the model."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import WEIGHT_ONLY

_SWIGLU = ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin")


def profiles(context: BuildContext) -> Iterator[Problem]:
    if context.enabled("multiple_profiles") and context.limits.opt_num_tokens is not None:
        detail = "several profiles have several token counts: opt_num_tokens cannot be given with them"
        yield refused_option(context, "opt_profiles", "multiple_profiles", detail, "disable, or no opt_num_tokens")


def weights(context: BuildContext) -> Iterator[Problem]:
    if context.option_value("weight_streaming") and context.option_value("gemm_plugin") not in (None, "disable"):
        detail = "weights cannot be streamed to the GEMM plugin"
        yield refused_option(context, "weight_streaming", "gemm_plugin", detail, "disable")
    plain = context.spec.precision.quantization in WEIGHT_ONLY and context.option_value(
        "disable_weight_only_quant_plugin"
    )
    if plain and context.option_value("fast_build"):
        detail = "weight-only quantisation keeps its weights beside the engine only with its plugin"
        expected = "false, or disable_weight_only_quant_plugin false"
        yield refused_option(context, "manage_weights", "fast_build", detail, expected)


def stripping(context: BuildContext) -> Iterator[Problem]:
    if not context.option_value("strip_plan"):
        return
    leaving = [name for name in ("fast_build", "lora_dir") if context.option_value(name)]
    leaving += [word for word in ("auto_quantize",) if context.spec.precision.quantization == word]
    if leaving:
        detail = f"trtllm-refit carries config.json along and nothing else, and {leaving[0]} leaves files beside it"
        yield refused_option(context, "refit_side_files", "strip_plan", detail, "false")


def plugins(context: BuildContext) -> Iterator[Problem]:
    fused = "use_fused_mlp" not in context.available_options or context.option_value("use_fused_mlp") in (
        True,
        "enable",
    )
    for name in _SWIGLU:
        if not fused and context.option_value(name) not in (None, "disable"):
            detail = "it works on the fused MLP alone"
            yield refused_option(context, "swiglu", name, detail, "disable, or use_fused_mlp")
    if context.enabled("pp_reduce_scatter") and context.facts.architecture != "MixtralForCausalLM":
        yield refused_option(context, "pp_reduce_scatter", "pp_reduce_scatter", "it is for Mixtral only", "disable")


CHECKS: tuple[Check, ...] = (profiles, weights, stripping, plugins)
