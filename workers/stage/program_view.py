"""What the programs of a stage see of the machine: the folders of their toolchain, and the GPU."""

from __future__ import annotations

import sys
from pathlib import Path

from enginefarm.contract.work import Job
from toolchains.registry import all_toolchains
from toolchains.toolchain import Toolchain


def folders_of(toolchain: Toolchain) -> tuple[Path, ...]:
    """The folder of a toolchain's module, wherever it is installed: its programs are there."""
    module = sys.modules[type(toolchain).__module__]
    return () if module.__file__ is None else (Path(module.__file__).parent,)


def uses_gpu(job: Job) -> bool:
    """True if the programs of the stage use a GPU where the machine has one."""
    on_gpu = job.platform is not None and job.platform.gpu is not None
    return on_gpu or all_toolchains()[job.toolchain].needs(job).gpu
