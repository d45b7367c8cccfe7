"""Check the model: its architecture, the code that it brings, and the order of its weights."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.release import first_release, last_release


def architecture(context: BuildContext) -> Iterator[Problem]:
    name, version = context.facts.architecture, context.release.version
    if context.release.script_for(name) is not None:
        return
    first = first_release(name)
    if first is not None and Version(version) < Version(first):
        detail = f"TensorRT-LLM {version} has no conversion for {name}: {first} is the first release that has one"
        if context.family and name in context.family.other_forms:
            detail += f"; {context.family.other_forms[name]}"
        yield _older_release_problem("architecture", detail, name, first)
        return
    detail = f"TensorRT-LLM {version} has no conversion for {name} in this farm"
    # A family without a script in any release states what it lacks, such as weights that no script reads.
    if context.family and context.family.unsupported_reason:
        detail += f": {context.family.unsupported_reason}"
    expected = ", ".join(context.release.architectures)
    if first is not None:
        expected = f"{first} to {last_release(name)}"
    yield Problem(pointer="/model", code="architecture", detail=detail, value=name, expected=expected)


def later_model(context: BuildContext) -> Iterator[Problem]:
    """Models that are younger than the first release of their architecture."""
    name, version = context.facts.architecture, context.release.version
    model = context.later_model
    if model is None or context.release.script_for(name) is None:
        return
    detail = (
        f"TensorRT-LLM {version} converts {name}, but not {model.model}, which config.json describes: "
        f"{model.since} is the first release that does"
    )
    yield _older_release_problem("later_model", detail, model.model, model.since)


def _older_release_problem(code: str, detail: str, value: str, first: str) -> Problem:
    return Problem(
        pointer="/model", code=code, detail=detail, value=value, expected=f"TensorRT-LLM {first} or newer",
        remedy=f"build with {first} or newer",
    )  # fmt: skip


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


CHECKS: tuple[Check, ...] = (architecture, later_model, remote_code, activation_order)
