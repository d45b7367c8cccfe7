"""What becomes of plugin options."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.normalization.change import Change, idle, option
from toolchains.trtllm.releases.rule_table import in_force

_FUSES_REDUCTIONS = frozenset({"LlamaForCausalLM", "MedusaForCausalLM"})


def plugin_dtypes(context: BuildContext) -> Iterator[Change]:
    named = (
        name
        for name, value in context.spec.options.items()
        if value == context.dtype and name in context.available_options
    )
    for name in named:
        if "auto" in context.available_options[name].choices:
            yield option("plugin_dtype", name, "auto", "auto means the model's dtype")


def nccl(context: BuildContext) -> Iterator[Change]:
    yield from idle(context, "nccl", "nccl_plugin", "the builder decides it by the number of ranks")


def fusion(context: BuildContext) -> Iterator[Change]:
    reduces = context.parallelism.tp > 1 and context.architecture in _fusing(context)
    if not reduces:
        why = "it joins tensor parallel ranks of a Llama, and this is none or tp is 1"
        yield from idle(context, "reduce_fusion", "reduce_fusion", why)
    reduces = reduces and context.enabled("reduce_fusion")
    if not reduces:
        yield option("reduce_fusion", "user_buffer", "disable", "it needs reduce_fusion")
    llama = context.architecture == "LlamaForCausalLM"
    if reduces or not llama or context.spec.precision.quantization != "nvfp4":
        why = "it is for a Llama in NVFP4 without reduce_fusion"
        yield from idle(context, "norm_quant_fusion", "norm_quant_fusion", why)


def _fusing(context: BuildContext) -> frozenset[str]:
    """Gemma 2 fuses since the release that can fuse normalisation with quantisation."""
    later = in_force("norm_quant_fusion", context.release.version)
    return _FUSES_REDUCTIONS | {"Gemma2ForCausalLM"} if later else _FUSES_REDUCTIONS


def gemm(context: BuildContext) -> Iterator[Change]:
    if context.spec.precision.quantization == "nvfp4" and context.option_value("gemm_plugin") != "disable":
        why = "NVFP4 weights go through this plugin unless it is disabled"
        yield option("nvfp4_gemm", "gemm_plugin", "nvfp4", why)
