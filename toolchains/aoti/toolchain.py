"""How the farm calls AOTInductor: what it accepts, its programs, its output. Imports no torch."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from safetensors import SafetensorError, safe_open

from enginefarm.contract.errors import Problem
from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Launch, Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.node.detection import package_version
from enginefarm.wire.bodies import Failure
from toolchains.aoti.failures import classify
from toolchains.aoti.preflight import GPU_ONLY, preflight
from toolchains.toolchain import Command, Directories, Exit, Installed, InvalidOutput, Needs, Release, Report, WarmFile

_PROGRAMS = Path(__file__).parent / "programs"
_PROGRESS = re.compile(r"^\[enginefarm\] progress (?P<fraction>[01](?:\.\d+)?) (?P<message>.+)$")


class Aoti:
    name = "aoti"
    title = "PyTorch AOTInductor"
    # TensorRT has no part in it. CUDA and the driver do: the engine holds machine code for both sides.
    binds_to = frozenset({"os", "arch", "cpu_isa", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver"})
    convert_options: frozenset[str] = frozenset()
    model_options: Mapping[str, tuple[str, ...]] = {}

    def releases(self) -> Sequence[Release]:
        return (
            Release("2.13.0", "CPU and CUDA"),
            Release(GPU_ONLY, "CUDA only: it cannot compile for a named CPU level"),
        )

    def installed(self) -> Sequence[Installed]:
        version = (package_version("torch") or "").split("+")[0]  # +cpu or +cu130 is in the platform already
        if version not in {release.version for release in self.releases()}:
            return ()
        missing = tuple(
            f"{what} is not installed: {remedy}"
            for what, there, remedy in (
                ("transformers", package_version("transformers"), "pip install '.[aoti]'"),
                ("a C++ compiler", shutil.which("g++"), "apt install g++, or the like"),
            )
            if not there
        )
        stages = () if missing else (Stage.CONVERT, Stage.BUILD)
        return (Installed(version, stages, missing),)

    def options_schema(self, version: str) -> Mapping[str, Any]:
        return {"type": "object", "properties": {}, "additionalProperties": False}

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        """`auto` becomes the checkpoint's own dtype. On a CPU 16 bits stay what they are: slow, but asked for."""
        if spec.precision.dtype != "auto":
            return spec, ()
        dtype = facts.dtype or "float32"
        note = Problem(
            pointer="/precision/dtype", code="dtype_resolved", detail=f"auto is the checkpoint's own dtype, {dtype}",
            value="auto", expected=dtype,
        )  # fmt: skip
        return spec.model_copy(update={"precision": spec.precision.model_copy(update={"dtype": dtype})}), (note,)

    def preflight(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> Sequence[Problem]:
        return preflight(spec, facts, platform)

    def needs(self, job: Job) -> Needs:
        """The weights once as they are read and once as they are written; the compiler's own part hardly grows."""
        weights = job.facts.weight_bytes
        on_gpu = 2 * weights if job.platform is not None and job.platform.device == "cuda" else 0
        return Needs(host_memory=2 * weights, gpu_memory=on_gpu, gpu_memory_in_all=0, scratch=3 * weights)

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        if job.stage is Stage.CONVERT:
            return (
                _program(
                    "convert.py",
                    *("--model-dir", str(directories.source)),
                    *("--output-dir", str(directories.output)),
                    *("--dtype", job.spec.precision.dtype),
                ),
            )
        assert job.platform is not None, "a build is bound to a platform"
        limits = job.spec.limits
        march = ("--march", job.platform.cpu_isa) if job.platform.cpu_isa and job.platform.arch == "x86_64" else ()
        return (
            _program(
                "build.py",
                *("--checkpoint-dir", str(directories.source)),
                *("--output-dir", str(directories.output)),
                *("--device", job.platform.device),
                *("--max-batch-size", str(limits.max_batch_size)),
                *("--max-input-len", str(limits.max_input_len)),
                *("--max-seq-len", str(limits.seq_len)),
                *march,
            ),
        )

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        output = directories.output
        config = _config(output)
        for name in ("tokenizer.json",):
            if job.facts.has_tokenizer and not (output / name).is_file():
                raise InvalidOutput(f"{name} is missing: the engine could not read a prompt")
        if job.stage is Stage.CONVERT:
            _check_weights(output / "model.safetensors")
            return {"dtype": job.spec.precision.dtype}
        _check_engine(output / "engine.pt2")
        _check_limits(job, config)
        return {"limits": config["limits"]}

    def warm_file(self, job: Job) -> WarmFile | None:
        return None

    def serving(self, job: Job) -> Serving | None:
        argv = ["python", "-m", "toolchains.aoti.generate", "{engine}", "--prompt", "Once upon a time"]
        run = Launch(what="one prompt, in a checkout of the farm with torch installed", argv=argv)
        return Serving(world_size=1, ranks=job.spec.parallelism.model_dump(), launch={"run": run})

    def read_line(self, stage: Stage, line: str) -> Report | None:
        found = _PROGRESS.match(line)
        return Report(float(found["fraction"]), found["message"]) if found else None

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        return classify(ended)


def _program(name: str, *arguments: str) -> Command:
    # -P keeps the program's own folder off the import path: a file there must not shadow a library.
    return Command((sys.executable, "-P", str(_PROGRAMS / name), *arguments))


def _config(output: Path) -> dict[str, Any]:
    try:
        config = json.loads((output / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidOutput(f"config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InvalidOutput("config.json is not an object")
    return config


def _check_weights(path: Path) -> None:
    try:
        with safe_open(path, framework="numpy") as weights:
            if not list(weights.keys()):
                raise InvalidOutput("model.safetensors has no tensors")
    except (OSError, SafetensorError) as error:
        raise InvalidOutput(f"model.safetensors does not open: {error}") from error


def _check_engine(path: Path) -> None:
    """A .pt2 is a zip archive; its directory is at the end, so a truncated one does not open."""
    if not zipfile.is_zipfile(path):
        raise InvalidOutput("engine.pt2 is missing or truncated")


def _check_limits(job: Job, config: Mapping[str, Any]) -> None:
    limits = job.spec.limits
    asked = {
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.seq_len,
    }
    built = config.get("limits")
    if built != asked:
        raise InvalidOutput(f"the engine's limits are {built}, asked were {asked}")
