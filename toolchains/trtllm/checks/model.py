"""Models that no script of the release takes."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext


def architecture(context: BuildContext) -> Iterator[Problem]:
    if context.release.script_for(context.facts.architecture) is None:
        found = context.release.family(context.facts.architecture)
        why = f": {found.unsupported_reason}" if found and found.unsupported_reason else ""
        yield Problem(
            pointer="/model",
            code="architecture",
            detail=f"TensorRT-LLM {context.release.version} has no conversion for {context.facts.architecture} "
            f"in this farm{why}",
            value=context.facts.architecture,
            expected=", ".join(context.release.architectures),
        )


def remote_code(context: BuildContext) -> Iterator[Problem]:
    if context.facts.remote_code and not context.facts.trusted:
        yield Problem(
            pointer="/model",
            code="remote_code",
            detail="the model brings Python code of its own, and the conversion would run it",
            expected="a model that transformers loads without remote code, or one that an administrator trusts",
        )


def activation_order(context: BuildContext) -> Iterator[Problem]:
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
