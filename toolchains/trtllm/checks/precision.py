"""Precisions that this model cannot have, or that contradict themselves."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check, refused_option
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.quantization import auto_formats
from toolchains.trtllm.releases.documented_precisions import nvfp4_architectures, undocumented


def dtype(context: BuildContext) -> Iterator[Problem]:
    if context.dtype == "auto":
        yield Problem(
            pointer="/precision/dtype",
            code="dtype_unknown",
            detail="the model's config.json names no dtype",
            value="auto",
            expected="bfloat16, float16 or float32",
        )


def documented(context: BuildContext) -> Iterator[Problem]:
    word, architecture = context.spec.precision.quantization, context.facts.architecture
    if line := undocumented(architecture, word):
        detail = f"TensorRT-LLM {context.release.version} is not documented to make {word} of {line.model}"
        yield _quantization(context, "precision_model", detail, line.expected)
    if word == "nvfp4" and architecture not in nvfp4_architectures():
        detail = f"NVFP4 engines are documented for {' and '.join(nvfp4_architectures())} only"
        yield _quantization(context, "nvfp4_model", detail, "another quantisation, or null")


def auto_quantization(context: BuildContext) -> Iterator[Problem]:
    if {"fp8", "int8_sq"} <= set(auto_formats(context)):
        detail = "fp8 and int8_sq cannot be chosen from together"
        yield refused_option(context, "autoq_formats", "autoq_format", detail, "one of the two")


def _quantization(context: BuildContext, rule: str, detail: str, expected: str) -> Problem:
    value = context.spec.precision.quantization
    return Problem(pointer="/precision/quantization", code=rule, detail=detail, value=value, expected=expected)


CHECKS: tuple[Check, ...] = (dtype, documented, auto_quantization)
