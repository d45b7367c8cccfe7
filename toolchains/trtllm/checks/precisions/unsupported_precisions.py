"""Check precisions that a release has, but that fail for some models. data/rules.json has the source of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import auto_formats
from toolchains.trtllm.releases.precision_recipe import quantization_of
from toolchains.trtllm.releases.rule_table import in_force, rules


class _Unsupported(NamedTuple):
    """Quantizations that fail for some models, in the releases of a rule."""

    rule: str
    quantizations: tuple[str, ...]
    architectures: tuple[str, ...]
    reason: str


_EXPERTS = (
    "MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", "DbrxForCausalLM", "ArcticForCausalLM",
    "GraniteMoeForCausalLM", "DeepseekForCausalLM", "DeepseekV2ForCausalLM",
)  # fmt: skip
_EXPERTS_OF_PHI = ("PhiMoEForCausalLM", "PhimoeForCausalLM")
_PHI3 = ("Phi3ForCausalLM", "Phi3SmallForCausalLM", "Phi3VForCausalLM")
_QWEN2 = ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2VLForConditionalGeneration")
_CALIBRATED = ("fp8", "int8_sq", "int4_awq", "w4a8_awq")

_UNSUPPORTED = (
    _Unsupported("sq_experts", ("int8_sq",), _EXPERTS, "SmoothQuant is not for experts"),
    _Unsupported(
        "awq_experts", ("int4_awq", "w4a8_awq"), (*_EXPERTS, *_EXPERTS_OF_PHI),
        "AWQ is not for experts yet",
    ),
    _Unsupported("mixtral_fp8", ("fp8",), ("MixtralForCausalLM",), "FP8 is not for its experts yet"),
    _Unsupported("starcoder2_fp8", ("fp8",), ("Starcoder2ForCausalLM",), "it has no FP8 network yet"),
    _Unsupported("starcoder2_sq", ("int8_sq",), ("Starcoder2ForCausalLM",), "its conversion to SmoothQuant fails"),
    _Unsupported("phi3_sq", ("int8_sq",), _PHI3, "its SmoothQuant checkpoints do not build"),
    _Unsupported("qwen2_sq", ("int8_sq",), _QWEN2, "its conversion to SmoothQuant fails"),
    _Unsupported("deepseek_fp8", ("fp8",), ("DeepseekForCausalLM", "DeepseekV2ForCausalLM"), "it has no FP8 yet"),
    _Unsupported("mllama_fp8", ("fp8",), ("MllamaForConditionalGeneration",), "it has no FP8 network yet"),
    _Unsupported("nemotron_nas_fp8", ("fp8",), ("DeciLMForCausalLM",), "it has no FP8 network yet"),
    _Unsupported("qwen2_vl_fp8", ("fp8",), ("Qwen2VLForConditionalGeneration",), "it has no FP8 network yet"),
    _Unsupported("exaone_calibrated", _CALIBRATED, ("ExaoneForCausalLM",), "it is not quantized yet"),
    _Unsupported("recurrentgemma_calibrated", _CALIBRATED, ("RecurrentGemmaForCausalLM",), "it is not quantized yet"),
)  # fmt: skip


def by_model(context: BuildContext) -> Iterator[Problem]:
    # Weights that are quantized already decide by themselves: `checks.feasibility` knows who takes them.
    if quantization_of(context.facts):
        return
    requested = {context.spec.precision.quantization, *auto_formats(context)}
    pointer = "/precision/quantization"
    if auto_formats(context):
        pointer = "/options/autoq_format"
    for unsupported in _applicable(context):
        for quantization in unsupported.quantizations:
            if quantization not in requested:
                continue
            remedy = None
            until = rules()[unsupported.rule].until
            if until is not None:
                remedy = f"build with TensorRT-LLM {until} or newer"
            yield Problem(
                pointer=pointer,
                code=unsupported.rule,
                detail=f"TensorRT-LLM {context.release.version} does not make {quantization} of "
                f"{context.facts.architecture}: {unsupported.reason}",
                value=quantization,
                remedy=remedy,
            )


def _applicable(context: BuildContext) -> list[_Unsupported]:
    """The entries that are in force for this model in this release."""
    applicable = []
    for unsupported in _UNSUPPORTED:
        is_affected = context.facts.architecture in unsupported.architectures
        if is_affected and in_force(unsupported.rule, context.release.version):
            applicable.append(unsupported)
    return applicable


CHECKS: tuple[Check, ...] = (by_model,)
