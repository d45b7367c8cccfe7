"""What is installed on this machine, from package metadata and the file system: importing it would take a GPU."""

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
from toolchains.trtllm.releases.release import ReleaseDescriptor, find_release

EXAMPLES_VARIABLE = "ENGINEFARM_TRTLLM_EXAMPLES"
_RELEASE_IMAGE_EXAMPLES = "/app/tensorrt_llm/examples"


@dataclass(frozen=True)
class Installation:
    """The programs of one TensorRT-LLM, by the names or paths under which they are started."""

    examples: Path
    python: str = "python3"
    build_program: str = "trtllm-build"
    refit_program: str = "trtllm-refit"
    version: str | None = None  # None: no TensorRT-LLM here, as on the control plane
    gpus: int = 1  # that its programs see; ranks are built side by side, one a GPU


def discover() -> Installation:
    """What this environment has; where it has nothing, the places of NVIDIA's release image."""
    examples = Path(os.environ.get(EXAMPLES_VARIABLE) or _RELEASE_IMAGE_EXAMPLES)
    try:
        found = version("tensorrt_llm").split("+")[0]
    except PackageNotFoundError:
        return Installation(examples)
    return Installation(examples, version=found, gpus=_visible_gpus())


def _visible_gpus() -> int:
    """As the builder counts them: what is shown to it, or all that there are."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return detect().host.gpus
    return len([one for one in shown.split(",") if one.strip()])


def installed(here: Installation) -> tuple[Installed, ...]:
    if here.version is None:
        return ()
    try:
        release = find_release(here.version)
    except InvalidSpec as error:
        return (Installed(here.version, stages=(), missing=(error.detail,)),)
    lacking = {Stage.CONVERT: _missing_for_convert(here, release), Stage.BUILD: _missing_for_build(here, release)}
    return (
        Installed(
            here.version,
            stages=tuple(stage for stage, missing in lacking.items() if not missing),
            missing=tuple(f"{stage}: {missing}" for stage, missing in lacking.items() if missing),
        ),
    )


def _missing_for_convert(here: Installation, release: ReleaseDescriptor) -> str | None:
    if shutil.which(here.python) is None:
        return f"no {here.python} on PATH"
    scripts = [here.examples / script.script for script in release.convert.values()]
    if not any(script.is_file() for script in scripts):
        return f"none of {', '.join(map(str, scripts))}: set {EXAMPLES_VARIABLE} to the examples folder of the release"
    return None


def _missing_for_build(here: Installation, release: ReleaseDescriptor) -> str | None:
    """Any build may ask for a plan that is refitted, so a worker without that program takes none."""
    programs = [here.build_program, *([here.refit_program] if release.refit else [])]
    lacking = [program for program in programs if shutil.which(program) is None]
    return f"no {' and no '.join(lacking)} on PATH" if lacking else None
