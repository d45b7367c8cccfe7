"""Check that the release has code for the GPU at all, and for the machine's processor."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.rule_table import rules

# Compute capabilities (SM) as numbers.
_VOLTA, _TURING, _BLACKWELL = 70, 75, 100
_ORIN = 87
# GPUs of Jetson and DRIVE for which no release was ever built: Xavier, and Thor by its older and its newer name.
_TEGRA = (72, 101, 110)
# GPUs that came after the first Blackwell, each with the rule for the releases that do not know it.
_LATER_GPUS = {103: "sm103", 121: "sm121"}


def presence(context: BuildContext) -> Iterator[Problem]:
    if context.platform.gpu is None:
        yield Problem(
            pointer="/platform",
            code="needs_gpu",
            detail="TensorRT-LLM builds engines for GPUs, and this platform has none",
            value=context.platform.label(),
            expected="a platform with gpu and sm",
        )


def generation(context: BuildContext) -> Iterator[Problem]:
    version = context.release.version
    if context.platform.gpu is None:
        return
    # The release notes and the CMake files name the GPUs that a release is compiled for; data/rules.json has both.
    no_code = f"TensorRT-LLM {version} is not compiled for SM {context.platform.sm}"
    if context.sm in _TEGRA or context.sm < _VOLTA:
        yield _sm_problem(context, "sm_unbuilt", no_code, f"SM {_TURING} or newer, of a GPU for desktops or servers")
    elif context.sm == _ORIN:
        yield _sm_problem(
            context, "sm_orin", f"{no_code}: 0.12.0 is the last release for Jetson Orin", "TensorRT-LLM 0.12.0 or older"
        )
    elif context.sm < _TURING:
        detail = f"SM {context.platform.sm} is no longer supported by TensorRT-LLM {version}"
        yield _sm_problem(context, "volta", detail, f"SM {_TURING} or newer")
    elif context.sm >= _BLACKWELL:
        yield _newer_gpu(context, "blackwell")
    rule = _LATER_GPUS.get(context.sm)
    if rule is not None:
        yield _newer_gpu(context, rule)


def _newer_gpu(context: BuildContext, rule: str) -> Problem:
    first = rules()[rule].until
    detail = f"SM {context.platform.sm} is newer than TensorRT-LLM {context.release.version}"
    return _sm_problem(context, rule, detail, f"TensorRT-LLM {first} or newer", f"build with {first} or newer")


def _sm_problem(context: BuildContext, rule: str, detail: str, expected: str, remedy: str | None = None) -> Problem:
    value = context.platform.sm
    return Problem(pointer="/platform/sm", code=rule, detail=detail, value=value, expected=expected, remedy=remedy)


def processor(context: BuildContext) -> Iterator[Problem]:
    # `generation` reports Jetson and DRIVE, and Orin has releases of its own.
    if context.platform.arch != "aarch64" or context.sm in (*_TEGRA, _ORIN):
        return
    first = rules()["aarch64"].until
    yield Problem(
        pointer="/platform/arch",
        code="aarch64",
        detail=f"TensorRT-LLM {context.release.version} is for x86_64 alone",
        value="aarch64",
        expected=f"x86_64, or TensorRT-LLM {first} or newer",
        remedy=f"build with {first} or newer",
    )


CHECKS: tuple[Check, ...] = (presence, generation, processor)
