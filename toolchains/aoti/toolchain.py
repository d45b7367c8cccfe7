"""The toolchain `aoti`: what PyTorch AOTInductor accepts, its programs and their output. Imports no torch."""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Launch, Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.node.detection import package_version
from enginefarm.wire.bodies import Failure
from toolchains.aoti.failures import classify
from toolchains.aoti.preflight import GPU_ONLY, preflight
from toolchains.output_files import OutputFiles
from toolchains.toolchain import Command, Directories, Exit, Installed, InvalidOutput, Needs, Release, Report, WarmFile

_PROGRAMS = Path(__file__).parent / "programs"
# Printed by `programs/aoti_engine/report.py`.
_PROGRESS = re.compile(r"^\[enginefarm\] progress (?P<fraction>[01](?:\.\d+)?) (?P<message>.+)$")


class Aoti:
    """Implements `toolchains.toolchain.Toolchain`, which documents the methods."""

    name = "aoti"
    title = "PyTorch AOTInductor"
    # TensorRT is not used. CUDA and the driver are: an engine contains machine code of the host and of the GPU.
    binds_to = frozenset({"os", "arch", "cpu_isa", "gpu", "sm", "gpu_memory_gib", "mig", "ecc", "cuda", "driver"})
    convert_options: frozenset[str] = frozenset()
    model_options: Mapping[str, tuple[str, ...]] = {}

    def releases(self) -> Sequence[Release]:
        return (
            Release("2.13.0", "CPU and CUDA"),
            Release(GPU_ONLY, "CUDA only: it cannot compile for a named CPU level"),
        )

    def installed(self) -> Sequence[Installed]:
        # The local part of the version, +cpu or +cu130, repeats what the platform records.
        version = (package_version("torch") or "").split("+")[0]
        if version not in {release.version for release in self.releases()}:
            return ()
        missing = []
        if not package_version("transformers"):
            missing.append("transformers is not installed: pip install '.[aoti]'")
        if not shutil.which("g++"):
            missing.append("a C++ compiler is not installed: apt install g++, or the like")
        if missing:
            return (Installed(version, (), tuple(missing)),)
        return (Installed(version, (Stage.CONVERT, Stage.BUILD)),)

    def options_schema(self, version: str) -> Mapping[str, Any]:
        return {"type": "object", "properties": {}, "additionalProperties": False}

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        """`auto` becomes the checkpoint's own dtype, on a CPU too: 16 bits are slow there, but the caller's choice."""
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
        """Memory for the weights as they are read and as they are written; the compiler's own share hardly grows."""
        weights = job.facts.weight_bytes
        gpu_memory = 0
        # A convert job has no platform: it runs on any machine.
        if job.platform is not None and job.platform.device == "cuda":
            gpu_memory = 2 * weights
        return Needs(host_memory=2 * weights, gpu_memory=gpu_memory, gpu_memory_in_all=0, scratch=3 * weights)

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        if job.stage is Stage.CONVERT:
            program = "convert.py"
            arguments = ["--model-dir", str(directories.source), "--output-dir", str(directories.output)]
            arguments += ["--dtype", job.spec.precision.dtype]
        else:
            assert job.platform is not None, "a build job has a platform"
            limits = job.spec.limits
            program = "build.py"
            arguments = ["--checkpoint-dir", str(directories.source), "--output-dir", str(directories.output)]
            arguments += ["--device", job.platform.device]
            arguments += ["--max-batch-size", str(limits.max_batch_size)]
            arguments += ["--max-input-len", str(limits.max_input_len)]
            arguments += ["--max-seq-len", str(limits.seq_len)]
            # Other architectures have one level, which is the program's default.
            if job.platform.cpu_isa and job.platform.arch == "x86_64":
                arguments += ["--march", job.platform.cpu_isa]
        # -P keeps the program's own folder off the import path: a file there must not shadow a library.
        return (Command((sys.executable, "-P", str(_PROGRAMS / program), *arguments)),)

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        output = OutputFiles(directories.output)
        config = output.read_json("config.json")
        if job.facts.has_tokenizer and output.size("tokenizer.json") is None:
            raise InvalidOutput("tokenizer.json is missing: the engine could not read a prompt")
        if job.stage is Stage.CONVERT:
            output.check_safetensors("model.safetensors")
            return {"dtype": job.spec.precision.dtype}
        # A .pt2 file is a zip archive, whose directory is at its end: a truncated file is no archive.
        with output.open("engine.pt2") as stream:
            if not zipfile.is_zipfile(stream):
                raise InvalidOutput("engine.pt2 is truncated: it is no zip archive")
        requested_limits = {
            "max_batch_size": job.spec.limits.max_batch_size,
            "max_input_len": job.spec.limits.max_input_len,
            "max_seq_len": job.spec.limits.seq_len,
        }
        engine_limits = config.get("limits")
        if engine_limits != requested_limits:
            raise InvalidOutput(f"the engine's limits are {engine_limits}, but the spec asks for {requested_limits}")
        return {"limits": config["limits"]}

    def warm_file(self, job: Job) -> WarmFile | None:
        return None

    def serving(self, job: Job) -> Serving | None:
        argv = ["python", "-m", "toolchains.aoti.generate", "{engine}", "--prompt", "Once upon a time"]
        run = Launch(what="one prompt, in a checkout of the farm with torch installed", argv=argv)
        return Serving(world_size=1, ranks=job.spec.parallelism.model_dump(), launch={"run": run})

    def read_line(self, stage: Stage, line: str) -> Report | None:
        match = _PROGRESS.match(line)
        if match is None:
            return None
        return Report(float(match["fraction"]), match["message"])

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        return classify(ended)
