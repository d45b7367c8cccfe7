"""Find the TensorRT-LLM of this machine in package metadata and the file system: importing it would need a GPU.

It belongs to the image's Python, which may be older than the worker's own: the worker asks that Python for its
packages, and starts the programs with it.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.stage import Stage
from enginefarm.node.detection import detect
from enginefarm.node.image_python import ImagePython, find_image_python
from toolchains.toolchain import Installed
from toolchains.trtllm.releases.release import ReleaseDescriptor, find_release

EXAMPLES_VARIABLE = "ENGINEFARM_TRTLLM_EXAMPLES"
# Of the release image, of Triton's images (github.com/triton-inference-server/tutorials, speculative decoding), and of
# the clones that the documentation makes.
_EXAMPLES = (
    Path("/app/tensorrt_llm/examples"),
    Path("/app/examples"),
    Path("/opt/tensorrt_llm/examples"),
    Path("/workspace/TensorRT-LLM/examples"),
    Path("/TensorRT-LLM/examples"),
)


@dataclass(frozen=True)
class Installation:
    """The programs of one TensorRT-LLM, by the names or paths that start them."""

    examples: Path  # the folder of conversion scripts
    python: str = "python3"
    build_program: str = "trtllm-build"
    refit_program: str = "trtllm-refit"
    version: str | None = None  # None: TensorRT-LLM is not installed, as on the control plane
    gpus: int = 1  # GPUs that the programs see; trtllm-build builds as many ranks at once
    folders: tuple[Path, ...] = ()  # of the image's Python and its packages, which the programs read


def discover() -> Installation:
    """The installation of this machine; the paths of NVIDIA's release image if there is none."""
    stated_examples = os.environ.get(EXAMPLES_VARIABLE)
    python = find_image_python()
    if python is None:
        return Installation(Path(stated_examples or _EXAMPLES[0]))
    # A version may have a local part, such as 1.2.1+cu130; releases are named without it.
    version = python.packages["tensorrt_llm"].split("+")[0]
    # The builder sees the GPUs of CUDA_VISIBLE_DEVICES, or all if the variable is not set. An empty one hides all.
    visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible_devices is None:
        gpus = detect().host.gpus
    else:
        gpus = 0
        for device in visible_devices.split(","):
            if device.strip():
                gpus += 1
    return Installation(
        Path(stated_examples) if stated_examples else _find_examples(version),
        python=python.executable,
        build_program=_program("trtllm-build", python),
        refit_program=_program("trtllm-refit", python),
        version=version,
        gpus=gpus,
        # Those of the system are visible anyway, and the root folder would show everything.
        folders=tuple(folder for folder in python.folders if folder not in (Path("/"), Path("/usr"))),
    )


def _find_examples(version: str) -> Path:
    """The first folder with a conversion script where the release has it; the release image's if there is none."""
    try:
        release = find_release(version)
    except InvalidSpec:
        return _EXAMPLES[0]
    for folder in _EXAMPLES:
        if any(script.is_file() for script in _conversion_scripts(folder, release)):
            return folder
    return _EXAMPLES[0]


def _conversion_scripts(examples: Path, release: ReleaseDescriptor) -> list[Path]:
    return [examples / script.script for script in release.convert.values()]


def _program(name: str, python: ImagePython) -> str:
    """The name if PATH has such a program, else its path where pip installs the programs of this Python."""
    installed_by_pip = python.scripts / name
    if shutil.which(name) is None and installed_by_pip.is_file():
        return str(installed_by_pip)
    return name


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
    scripts = _conversion_scripts(installation.examples, release)
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
