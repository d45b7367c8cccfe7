"""The toolchain `trtllm`: TensorRT-LLM's own conversion scripts and `trtllm-build`, release by release."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure
from toolchains.toolchain import Command, Directories, Exit, Installed, Needs, Release, Report, WarmFile
from toolchains.trtllm.checks.preflight import find_problems
from toolchains.trtllm.commands import installation, plan
from toolchains.trtllm.commands import resources as needs
from toolchains.trtllm.commands import timing_cache as warmth
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.options_schema import options_schema
from toolchains.trtllm.logs import failure
from toolchains.trtllm.logs import progress as log_line
from toolchains.trtllm.normalization.normalize import normalize
from toolchains.trtllm.output import verify as output
from toolchains.trtllm.releases.adapters import adapter_model_options
from toolchains.trtllm.releases.draft_heads import draft_model_options
from toolchains.trtllm.releases.precision_recipe import recipe_option_names
from toolchains.trtllm.releases.release import ReleaseDescriptor, all_releases, convert_option_names, find_release
from toolchains.trtllm.serving import launch as serving


class TensorRTLLM:
    name = "trtllm"
    title = "TensorRT-LLM"
    binds_to = frozenset(
        ["os", "arch", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver", "tensorrt"],
    )
    convert_options = convert_option_names() | recipe_option_names()
    model_options: Mapping[str, tuple[str, ...]] = {**draft_model_options(), **adapter_model_options()}

    def __init__(self, discover: Callable[[], Installation] = installation.discover) -> None:
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
        return needs.needs(job)

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        return plan.commands(job, directories, self._discover())

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        return output.check(job, directories)

    def warm_file(self, job: Job) -> WarmFile | None:
        return warmth.warm_file(job)

    def serving(self, job: Job) -> Serving | None:
        return serving.serving(job)

    def read_line(self, stage: Stage, line: str) -> Report | None:
        return log_line.read(stage, line)

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        return failure.classify(stage, ended)


def _context(spec: BuildSpec, facts: ModelFacts, platform: Platform) -> BuildContext:
    return BuildContext(find_release(spec.toolchain.version), spec, facts, platform)


def _notes(release: ReleaseDescriptor) -> str:
    """What it is built on, as far as its own notes say, and how sure its options are."""
    parts = {
        "TensorRT": release.tensorrt,
        "CUDA": release.cuda,
        "PyTorch": release.torch,
        "NVIDIA PyTorch container": release.container,
        "ModelOpt": release.modelopt,
    }
    stated = [f"{part} {version or 'not stated'}" for part, version in parts.items()]
    source = release.source
    return "; ".join([*([release.notes] if release.notes else []), *stated, f"{source.how} ({source.sure})"])
