"""Find the TensorRT-LLM of this machine in package metadata and the file system: importing it would need a GPU."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.stage import Stage
from enginefarm.node.detection import detect
from toolchains.toolchain import Installed
from toolchains.trtllm.releases.release import find_release

EXAMPLES_VARIABLE = "ENGINEFARM_TRTLLM_EXAMPLES"
_RELEASE_IMAGE_EXAMPLES = "/app/tensorrt_llm/examples"


@dataclass(frozen=True)
class Installation:
    """The programs of one TensorRT-LLM, by the names or paths that start them."""

    examples: Path  # the folder of conversion scripts
    python: str = "python3"
    build_program: str = "trtllm-build"
    refit_program: str = "trtllm-refit"
    version: str | None = None  # None: TensorRT-LLM is not installed, as on the control plane
    gpus: int = 1  # GPUs that the programs see; trtllm-build builds as many ranks at once


def discover() -> Installation:
    """The installation of this environment; the paths of NVIDIA's release image if there is none."""
    examples = Path(os.environ.get(EXAMPLES_VARIABLE) or _RELEASE_IMAGE_EXAMPLES)
    # A version may have a local part, such as 1.2.1+cu130; releases are named without it.
    try:
        installed_version = version("tensorrt_llm").split("+")[0]
    except PackageNotFoundError:
        return Installation(examples)
    # The builder sees the GPUs of CUDA_VISIBLE_DEVICES, or all if the variable is not set. An empty one hides all.
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible_devices is None:
        gpus = detect().host.gpus
    else:
        gpus = 0
        for device in visible_devices.split(","):
            if device.strip():
                gpus += 1
    return Installation(examples, version=installed_version, gpus=gpus)


def installed(installation: Installation) -> tuple[Installed, ...]:
    """The installed version and the stages that can run; empty if TensorRT-LLM is not installed."""
    if installation.version is None:
        return ()
    try:
        release = find_release(installation.version)
    except InvalidSpec as error:
        return (Installed(installation.version, stages=(), missing=(error.detail,)),)
    stages = []
    missing = []

    # One script is enough: each is for other architectures, and images may leave some out.
    scripts = [installation.examples / script.script for script in release.convert.values()]
    if shutil.which(installation.python) is None:
        missing.append(f"{Stage.CONVERT}: no {installation.python} on PATH")
    elif not any(script.is_file() for script in scripts):
        names = ", ".join(map(str, scripts))
        remedy = f"set {EXAMPLES_VARIABLE} to the examples folder of the release"
        missing.append(f"{Stage.CONVERT}: none of {names}: {remedy}")
    else:
        stages.append(Stage.CONVERT)

    # Any build may ask for an engine that is refitted, so a worker without that program runs no build.
    programs = [installation.build_program]
    if release.refit:
        programs.append(installation.refit_program)
    missing_programs = [program for program in programs if shutil.which(program) is None]
    if missing_programs:
        missing.append(f"{Stage.BUILD}: no {' and no '.join(missing_programs)} on PATH")
    else:
        stages.append(Stage.BUILD)
    return (Installed(installation.version, tuple(stages), tuple(missing)),)
