"""Check the platform's TensorRT and CUDA against those that the release carries. A part that is not known passes."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.images import carried
from toolchains.trtllm.releases.release import all_releases


def tensorrt(context: BuildContext) -> Iterator[Problem]:
    """An engine loads only under the TensorRT that built it, and a release is linked with one TensorRT."""
    version = context.release.version
    stated = context.platform.tensorrt
    release_versions = carried(version, "tensorrt")
    if (
        stated is None
        or not release_versions
        or any(_agree(stated, carried_version) for carried_version in release_versions)
    ):
        return
    fitting = [
        release.version
        for release in all_releases()
        if any(_agree(stated, carried_version) for carried_version in carried(release.version, "tensorrt"))
    ]
    remedy = f"set platform.tensorrt to {release_versions[0]}, or leave it out where a live worker has the release"
    if fitting:
        remedy += f"; TensorRT {stated} is that of {' and '.join(fitting)}"
    yield Problem(
        pointer="/platform/tensorrt",
        code="release_tensorrt",
        detail=f"TensorRT-LLM {version} carries TensorRT {' or '.join(release_versions)}, not {stated}",
        value=stated,
        expected=" or ".join(release_versions),
        remedy=remedy,
    )


def cuda(context: BuildContext) -> Iterator[Problem]:
    """A driver runs programs of its own major version of CUDA and of older ones, not of newer ones."""
    version = context.release.version
    served = context.platform.cuda
    release_versions = carried(version, "cuda")
    if served is None or not release_versions:
        return
    needed = min(int(carried_version.split(".")[0]) for carried_version in release_versions)
    if int(served.split(".")[0]) >= needed:
        return
    yield Problem(
        pointer="/platform/cuda",
        code="release_cuda",
        detail=f"TensorRT-LLM {version} carries CUDA {' or '.join(release_versions)}, and this driver serves {served}",
        value=served,
        expected=f"CUDA {needed}.0 or newer",
        remedy=f"a machine whose driver serves CUDA {needed}, or a release with an older CUDA",
    )


def _agree(first: str, second: str) -> bool:
    """True if neither version contradicts the other: 10.11 and 10.11.0.33 agree. The local part does not count."""
    numbers = zip(first.split("+")[0].split("."), second.split("+")[0].split("."), strict=False)
    return all(one == other for one, other in numbers)


CHECKS: tuple[Check, ...] = (tensorrt, cuda)
