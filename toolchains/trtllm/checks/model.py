"""Models that no script of the release takes."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import Case


def architecture(case: Case) -> Iterator[Problem]:
    if case.release.script_for(case.facts.architecture) is None:
        found = case.release.family(case.facts.architecture)
        why = f": {found.needs}" if found and found.needs else ""
        yield Problem(
            pointer="/model",
            code="architecture",
            detail=f"TensorRT-LLM {case.release.version} has no conversion for {case.facts.architecture} in this farm"
            + why,
            value=case.facts.architecture,
            expected=", ".join(case.release.architectures),
        )


def remote_code(case: Case) -> Iterator[Problem]:
    if case.facts.remote_code and not case.facts.trusted:
        yield Problem(
            pointer="/model",
            code="remote_code",
            detail="the model brings Python code of its own, and the conversion would run it",
            expected="a model that transformers loads without remote code, or one that an administrator trusts",
        )


def activation_order(case: Case) -> Iterator[Problem]:
    config = case.facts.quantization_config or {}
    if config.get("quant_method") == "gptq" and config.get("desc_act"):
        yield Problem(
            pointer="/model",
            code="gptq_desc_act",
            detail="the model's GPTQ weights are in activation order (desc_act), which no script takes",
            value=True,
            expected="GPTQ weights with desc_act false",
        )


CHECKS: tuple[Check, ...] = (architecture, remote_code, activation_order)
