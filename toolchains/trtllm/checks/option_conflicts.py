"""Options that contradict each other, or the model."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.context.quantization import WEIGHT_ONLY

_SWIGLU = ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin")


def profiles(case: Case) -> Iterator[Problem]:
    if case.enabled("multiple_profiles") and case.limits.opt_num_tokens is not None:
        detail = "several profiles have several token counts: opt_num_tokens cannot be given with them"
        yield refused_option(case, "opt_profiles", "multiple_profiles", detail, "disable, or no opt_num_tokens")


def weights(case: Case) -> Iterator[Problem]:
    if case.option("weight_streaming") and case.option("gemm_plugin") not in (None, "disable"):
        detail = "weights cannot be streamed to the GEMM plugin"
        yield refused_option(case, "weight_streaming", "gemm_plugin", detail, "disable")
    plain = case.spec.precision.quantization in WEIGHT_ONLY and case.option("disable_weight_only_quant_plugin")
    if plain and case.option("fast_build"):
        detail = "weight-only quantisation keeps its weights beside the engine only with its plugin"
        expected = "false, or disable_weight_only_quant_plugin false"
        yield refused_option(case, "manage_weights", "fast_build", detail, expected)


def stripping(case: Case) -> Iterator[Problem]:
    if not case.option("strip_plan"):
        return
    leaving = [name for name in ("fast_build", "lora_dir") if case.option(name)]
    leaving += [word for word in ("auto_quantize",) if case.spec.precision.quantization == word]
    if leaving:
        detail = f"trtllm-refit carries config.json along and nothing else, and {leaving[0]} leaves files beside it"
        yield refused_option(case, "refit_side_files", "strip_plan", detail, "false")


def plugins(case: Case) -> Iterator[Problem]:
    fused = "use_fused_mlp" not in case.known or case.option("use_fused_mlp") in (True, "enable")
    for name in _SWIGLU:
        if not fused and case.option(name) not in (None, "disable"):
            detail = "it works on the fused MLP alone"
            yield refused_option(case, "swiglu", name, detail, "disable, or use_fused_mlp")
    if case.enabled("pp_reduce_scatter") and case.facts.architecture != "MixtralForCausalLM":
        yield refused_option(case, "pp_reduce_scatter", "pp_reduce_scatter", "it is for Mixtral only", "disable")


CHECKS: tuple[Check, ...] = (profiles, weights, stripping, plugins)
