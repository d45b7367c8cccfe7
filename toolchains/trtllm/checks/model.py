"""Check the model: its architecture, the code that it brings, and the order of its weights."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext


def architecture(context: BuildContext) -> Iterator[Problem]:
    if context.release.script_for(context.facts.architecture) is None:
        # A family without a script in any release states what it lacks, such as weights that no script reads.
        reason = ""
        if context.family and context.family.unsupported_reason:
            reason = f": {context.family.unsupported_reason}"
        yield Problem(
            pointer="/model",
            code="architecture",
            detail=f"TensorRT-LLM {context.release.version} has no conversion for {context.facts.architecture} "
            f"in this farm{reason}",
            value=context.facts.architecture,
            expected=", ".join(context.release.architectures),
        )


def remote_code(context: BuildContext) -> Iterator[Problem]:
    # The scripts load models with trust_remote_code (tensorrt_llm/models/llama/convert.py @aaacc9bd).
    if context.facts.remote_code and not context.facts.trusted:
        yield Problem(
            pointer="/model",
            code="remote_code",
            detail="the model brings Python code of its own, and the conversion would run it",
            expected="a model that transformers loads without remote code, or one that an administrator trusts",
        )


def activation_order(context: BuildContext) -> Iterator[Problem]:
    # Source: tensorrt_llm/models/llama/config.py @aaacc9bd.
    config = context.facts.quantization_config or {}
    if config.get("quant_method") == "gptq" and config.get("desc_act"):
        yield Problem(
            pointer="/model",
            code="gptq_desc_act",
            detail="the model's GPTQ weights are in activation order (desc_act), which no script takes",
            value=True,
            expected="GPTQ weights with desc_act false",
        )


CHECKS: tuple[Check, ...] = (architecture, remote_code, activation_order)
