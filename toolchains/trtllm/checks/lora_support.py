"""Check that the network of the model and of its precision has places for LoRA, adapters or not."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.checks.feasibility import is_possible
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.adapters import adapter_table
from toolchains.trtllm.releases.precision_recipe import recipe_table

_AMPERE = 80  # compute capability
_PLUGIN = "lora_plugin"
# Layers that assert that there is no LoRA (tensorrt_llm/quantization/layers.py @42a7b092; issues #2603, #2604 and
# #12703, pull request #12229).
_WITHOUT_LORA = ("int8_sq", "fp8_rowwise", "fp8_pc_pt", "nvfp4", "w4a8_qserve")
# Families whose model class implements `use_lora`, by the rule for the releases without it. The base class raises
# NotImplementedError (tensorrt_llm/top_model_mixin.py @42a7b092). None: in every release.
_WITHOUT_LORA_BEFORE: dict[str, str | None] = {
    "llama": None,
    "internlm": None,
    "skywork": None,
    "gpt": None,
    "t5": None,
    "bart": None,
    "qwen": "lora_qwen",
    "phi": "lora_phi",
    "gemma": "lora_gemma",
}
_ADAPTED_OUTSIDE = frozenset({"attn_q", "attn_k", "attn_v"})
_PHI2, _GEMMA3 = "PhiForCausalLM", "Gemma3ForCausalLM"


def model(context: BuildContext) -> Iterator[Problem]:
    if not context.is_plugin_enabled(_PLUGIN) or context.family_name is None:
        return
    # `checks.adapters` reports adapters of these models.
    table = adapter_table()
    if context.option_value(table.option) and table.family(context.architecture, context.release.version) is None:
        return
    # Phi-2 has a class of its own. Gemma 3 got LoRA later than the others.
    rule = _WITHOUT_LORA_BEFORE.get(context.family_name, "lora_class")
    if context.facts.architecture == _PHI2:
        rule = "lora_phi2"
    elif context.facts.architecture == _GEMMA3:
        rule = "lora_gemma3"
    if rule is not None:
        detail = f"the network of {context.facts.architecture} has no places for LoRA in this release"
        yield refused_option(context, rule, _PLUGIN, detail, "disable")


def precision(context: BuildContext) -> Iterator[Problem]:
    quantization = context.spec.precision.quantization
    if not context.is_plugin_enabled(_PLUGIN) or quantization is None:
        return
    if quantization in _WITHOUT_LORA:
        with_lora = [name for name in recipe_table().quantization if name not in _WITHOUT_LORA]
        others = [name for name in with_lora if is_possible(context, quantization=name)]
        detail = f"the layers of {quantization} take no LoRA"
        expected = f"disable, or precision.quantization {', '.join(['null', *others])}"
        yield refused_option(context, "lora_precision", _PLUGIN, detail, expected)
        return
    # Of 0.9 and 0.10: the quantized layers assert it. Those of q, k and v are adapted outside the layer
    # (tensorrt_llm/quantization/layers.py of 0.8.0 to 0.10.0; docs/source/release-notes.md @001eaece).
    modules = context.option_value("lora_target_modules")
    if isinstance(modules, list) and not _ADAPTED_OUTSIDE.issuperset(modules):
        detail = f"the layers of {quantization} take no LoRA in this release"
        expected = f"disable, lora_target_modules {', '.join(sorted(_ADAPTED_OUTSIDE))}, or precision.quantization null"
        yield refused_option(context, "lora_quantized", _PLUGIN, detail, expected)


def gpu(context: BuildContext) -> Iterator[Problem]:
    # The grouped GEMM of the plugin is instantiated for SM 80 alone (cpp/tensorrt_llm/kernels/groupGemm.cu @250d9c29).
    if context.is_plugin_enabled(_PLUGIN) and context.platform.gpu is not None and context.sm < _AMPERE:
        detail = f"the kernels of LoRA need SM {_AMPERE} or newer, and this is SM {context.platform.sm}"
        yield refused_option(context, "lora_sm", _PLUGIN, detail, "disable, or a newer GPU")


CHECKS: tuple[Check, ...] = (model, precision, gpu)
