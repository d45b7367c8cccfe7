"""The toolchain `trtllm`: TensorRT-LLM's own conversion scripts and `trtllm-build`, release by release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure
from toolchains.toolchain import Command, Directories, Exit, Installed, Needs, Release, Report, WarmFile
from toolchains.trtllm.checks.preflight import find_problems
from toolchains.trtllm.commands import installation, plan, resources, timing_cache
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.options_schema import options_schema
from toolchains.trtllm.logs import failures, progress
from toolchains.trtllm.normalization.normalize import normalize
from toolchains.trtllm.output import verify
from toolchains.trtllm.releases.adapters import adapter_model_options
from toolchains.trtllm.releases.draft_heads import draft_model_options
from toolchains.trtllm.releases.images import image_python
from toolchains.trtllm.releases.precision_recipe import recipe_option_names, weights_model_options
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases, convert_option_names, find_release
from toolchains.trtllm.serving import launch


class TensorRTLLM:
    """Implements `toolchains.toolchain.Toolchain`, which documents the methods."""

    name = "trtllm"
    title = "TensorRT-LLM"
    # Not cpu_isa: an engine has no code for the CPU.
    binds_to = frozenset({"os", "arch", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver", "tensorrt"})
    convert_options = convert_option_names() | recipe_option_names()
    model_options: Mapping[str, tuple[str, ...]] = {
        **draft_model_options(),
        **adapter_model_options(),
        **weights_model_options(),
    }

    def __init__(self, discover: Callable[[], Installation] = installation.discover) -> None:
        """`discover` finds the programs of this machine; tests give their own."""
        self._discover = discover

    def releases(self) -> Sequence[Release]:
        return tuple(Release(release.version, _notes(release)) for release in all_releases())

    def installed(self) -> Sequence[Installed]:
        return installation.installed(self._discover())

    def options_schema(self, version: str) -> Mapping[str, Any]:
        return options_schema(find_release(version))

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        return normalize(_context(spec, facts, platform))

    def preflight(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> Sequence[Problem]:
        return find_problems(_context(spec, facts, platform))

    def needs(self, job: Job) -> Needs:
        return resources.needs(job)

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        return plan.commands(job, directories, self._discover())

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        return verify.check(job, directories)

    def warm_file(self, job: Job) -> WarmFile | None:
        return timing_cache.warm_file(job)

    def serving(self, job: Job) -> Serving | None:
        return launch.serving(job)

    def read_line(self, stage: Stage, line: str) -> Report | None:
        return progress.read(stage, line)

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        return failures.classify(stage, ended)


def _context(spec: BuildSpec, facts: ModelFacts, platform: Platform) -> BuildContext:
    return BuildContext(find_release(spec.toolchain.version), spec, facts, platform)


def _notes(release: ReleaseDescriptor) -> str:
    """The versions that the release's own notes state, and how sure its option tables are."""
    notes = []
    if release.notes:
        notes.append(release.notes)
    versions = {
        "TensorRT": release.tensorrt,
        "CUDA": release.cuda,
        "PyTorch": release.torch,
        "NVIDIA PyTorch container": release.container,
        "Python of the images": image_python(release.version),
        "ModelOpt": release.modelopt,
    }
    for package, version in versions.items():
        notes.append(f"{package} {version or 'not stated'}")
    notes.append(f"{release.source.how} ({release.source.sure})")
    return "; ".join(notes)
