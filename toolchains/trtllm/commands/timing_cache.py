"""What the timing cache of a build depends on: TensorRT binds one to device, CUDA, its version and builder settings."""

from __future__ import annotations

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import WarmFile
from toolchains.trtllm.commands.plan import TIMING_CACHE
from toolchains.trtllm.releases.release import find_release

_PLATFORM_FIELDS = ("arch", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda")
# The options that become flags of TensorRT's builder.
_BUILDER_OPTIONS = (
    "strongly_typed",
    "weight_sparsity",
    "weight_streaming",
    "strip_plan",
    "fast_build",
    "profiling_verbosity",
    "builder_opt",
)


def warm_file(job: Job) -> WarmFile | None:
    """The timing cache of a build; None for a convert stage."""
    if job.stage is not Stage.BUILD or job.platform is None:
        return None
    platform = job.platform.model_dump()
    return WarmFile(
        path=TIMING_CACHE,
        good_for={
            "platform": {name: platform[name] for name in _PLATFORM_FIELDS},
            "tensorrt": platform["tensorrt"] or find_release(job.version).tensorrt,
            # If no source states the TensorRT version, the release's image fixes it.
            "version": job.version,
            "precision": job.spec.precision.model_dump(),
            "flags": {name: job.spec.options.get(name) for name in _BUILDER_OPTIONS},
        },
    )
