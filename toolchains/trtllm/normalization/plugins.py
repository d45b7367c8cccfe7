"""Rewrites of plugin options."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.change import Change, idle_option, option_change
from toolchains.trtllm.releases.rule_table import in_force

_FUSES_REDUCTIONS = frozenset({"LlamaForCausalLM", "MedusaForCausalLM"})


def name_model_dtype_auto(context: BuildContext) -> Iterator[Change]:
    """A plugin's dtype that is the model's is written as `auto`: both make the same engine."""
    # Source: tensorrt_llm/plugin/plugin.py @c20322ff.
    for name, value in context.spec.options.items():
        option = context.available_options.get(name)
        if option and value == context.dtype and "auto" in option.choices:
            yield option_change("plugin_dtype", name, "auto", "auto means the model's dtype")


def reset_nccl_plugin(context: BuildContext) -> Iterator[Change]:
    # On with the model's dtype if there are several ranks (tensorrt_llm/builder.py @aaacc9bd).
    yield from idle_option(context, "nccl", "nccl_plugin", "the builder decides it by the number of ranks")


def reset_fusion(context: BuildContext) -> Iterator[Change]:
    """Each fusion has models and precisions that it is for, and no effect on others."""
    architectures = _FUSES_REDUCTIONS
    # Gemma 2 fuses reductions since the release that can fuse normalization with quantization.
    if in_force("norm_quant_fusion", context.release.version):
        architectures = architectures | {"Gemma2ForCausalLM"}
    can_fuse = context.parallelism.tp > 1 and context.architecture in architectures
    # The builder switches it off with a warning (tensorrt_llm/builder.py @aaacc9bd).
    if not can_fuse:
        reason = "it joins tensor parallel ranks of a Llama, and this is none or tp is 1"
        yield from idle_option(context, "reduce_fusion", "reduce_fusion", reason)
    fuses = can_fuse and context.enabled("reduce_fusion")
    if not fuses:
        yield option_change("reduce_fusion", "user_buffer", "disable", "it needs reduce_fusion")
    is_llama = context.architecture == "LlamaForCausalLM"
    if fuses or not is_llama or context.spec.precision.quantization != "nvfp4":
        reason = "it is for a Llama in NVFP4 without reduce_fusion"
        yield from idle_option(context, "norm_quant_fusion", "norm_quant_fusion", reason)


def use_nvfp4_gemm(context: BuildContext) -> Iterator[Change]:
    # Since 0.20 (tensorrt_llm/builder.py of main, about Oct 2025).
    if context.spec.precision.quantization == "nvfp4" and context.option_value("gemm_plugin") != "disable":
        reason = "NVFP4 weights go through this plugin unless it is disabled"
        yield option_change("nvfp4_gemm", "gemm_plugin", "nvfp4", reason)
