"""What becomes of plugin options."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import Case
from toolchains.trtllm.normalization.change import Change, idle, option
from toolchains.trtllm.releases.rule_table import in_force

_FUSES_REDUCTIONS = frozenset({"LlamaForCausalLM", "MedusaForCausalLM"})


def plugin_dtypes(case: Case) -> Iterator[Change]:
    named = (name for name, value in case.spec.options.items() if value == case.dtype and name in case.known)
    for name in named:
        if "auto" in case.known[name].choices:
            yield option("plugin_dtype", name, "auto", "auto means the model's dtype")


def nccl(case: Case) -> Iterator[Change]:
    yield from idle(case, "nccl", "nccl_plugin", "the builder decides it by the number of ranks")


def fusion(case: Case) -> Iterator[Change]:
    reduces = case.parallelism.tp > 1 and case.architecture in _fusing(case)
    if not reduces:
        why = "it joins tensor parallel ranks of a Llama, and this is none or tp is 1"
        yield from idle(case, "reduce_fusion", "reduce_fusion", why)
    reduces = reduces and case.enabled("reduce_fusion")
    if not reduces:
        yield option("reduce_fusion", "user_buffer", "disable", "it needs reduce_fusion")
    llama = case.architecture == "LlamaForCausalLM"
    if reduces or not llama or case.spec.precision.quantization != "nvfp4":
        why = "it is for a Llama in NVFP4 without reduce_fusion"
        yield from idle(case, "norm_quant_fusion", "norm_quant_fusion", why)


def _fusing(case: Case) -> frozenset[str]:
    """Gemma 2 fuses since the release that can fuse normalisation with quantisation."""
    later = in_force("norm_quant_fusion", case.release.version)
    return _FUSES_REDUCTIONS | {"Gemma2ForCausalLM"} if later else _FUSES_REDUCTIONS


def gemm(case: Case) -> Iterator[Change]:
    if case.spec.precision.quantization == "nvfp4" and case.option("gemm_plugin") != "disable":
        why = "NVFP4 weights go through this plugin unless it is disabled"
        yield option("nvfp4_gemm", "gemm_plugin", "nvfp4", why)
