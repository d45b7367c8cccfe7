"""What a timing cache is good for: TensorRT ties one to device, CUDA, its own version and the builder's settings."""

from __future__ import annotations

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import WarmFile
from toolchains.trtllm.commands.plan import TIMING_CACHE
from toolchains.trtllm.releases.release import find_release

_TRAITS = ("arch", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda")
# The options that become flags of TensorRT's builder.
_FLAGS = (
    "strongly_typed",
    "weight_sparsity",
    "weight_streaming",
    "strip_plan",
    "fast_build",
    "profiling_verbosity",
    "builder_opt",
)


def warm_file(job: Job) -> WarmFile | None:
    if job.stage is not Stage.BUILD or job.platform is None:
        return None
    platform, options = job.platform.model_dump(), job.spec.options
    return WarmFile(
        path=TIMING_CACHE,
        good_for={
            "platform": {name: platform[name] for name in _TRAITS},
            "tensorrt": platform["tensorrt"] or find_release(job.version).tensorrt,
            "version": job.version,  # its image fixes TensorRT where nothing states it
            "precision": job.spec.precision.model_dump(),
            "flags": {name: options.get(name) for name in _FLAGS},
        },
    )
