"""A toolchain that builds in a moment and fails on demand, registered the way a third party would.

It stands in for minutes of compiling in tests of everything around the compiler. Its folder, with the
dist-info beside this file, is put on PYTHONPATH; the product cannot import it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import Command, Directories, Exit, Installed, InvalidOutput, Needs, Release, Report, WarmFile

_OPTIONS = {
    "seconds": "number",
    "convert_seconds": "number",
    "behave": "string",
    "salt": "string",
    "memory_gib": "number",
    "kib": "number",  # of an engine whose bytes no other has
    "check": "string",  # what the check of the output does besides
}


class Quick:
    name = "quick"
    title = "A toolchain for tests"
    binds_to = frozenset({"os", "arch", "cpu_isa"})
    convert_options = frozenset({"convert_seconds"})
    model_options: Mapping[str, tuple[str, ...]] = {}

    def releases(self) -> Sequence[Release]:
        return (Release("1.0"),)

    def installed(self) -> Sequence[Installed]:
        return (Installed("1.0", (Stage.CONVERT, Stage.BUILD)),)

    def options_schema(self, version: str) -> Mapping[str, Any]:
        return {"type": "object", "properties": {name: {"type": kind} for name, kind in _OPTIONS.items()}}

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        return spec, ()

    def preflight(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> Sequence[Problem]:
        return [
            Problem(pointer=f"/options/{name}", code="unknown_option", detail="unknown option", value=name)
            for name in spec.options
            if name not in _OPTIONS
        ]

    def needs(self, job: Job) -> Needs:
        gib = int(str(job.spec.options.get("memory_gib", 0))) if job.stage is Stage.BUILD else 0
        return Needs(host_memory=gib << 30, gpu_memory=0, gpu_memory_in_all=0, scratch=0)

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        seconds = job.spec.options.get("convert_seconds" if job.stage is Stage.CONVERT else "seconds", 0)
        behave = str(job.spec.options.get("behave", "")) if job.stage is Stage.BUILD else ""
        if job.stage is Stage.CONVERT and job.facts.trusted and job.facts.remote_code:
            behave = "own code"
        program = Path(__file__).parent / "quick_program.py"
        where = (str(directories.source), str(directories.output))
        size = f"{job.spec.options.get('kib', 0)} {job.spec.options.get('salt', '')}"
        return (
            Command((sys.executable, "-I", "-S", str(program), str(job.stage), *where, str(seconds), behave, size)),
        )

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, Any]:
        name = "model.safetensors" if job.stage is Stage.CONVERT else "rank0.engine"
        if not (directories.output / name).is_file() or not (directories.output / name).stat().st_size:
            raise InvalidOutput(f"{name} is missing or empty")
        if job.stage is Stage.CONVERT:
            return {}
        return self.misbehave(str(job.spec.options.get("check", "")), directories.output / name)

    def misbehave(self, how: str, engine: Path) -> Mapping[str, Any]:
        """What a check does whose files a hostile program wrote, if it reads them without care."""
        match how:
            case "facts":
                return {"size": engine.stat().st_size}
            case "environment":
                return dict(os.environ)
            case "hang":
                time.sleep(300)
            case "crash":
                os.kill(os.getpid(), 11)
            case "raise":
                return {"ratio": 1 / 0}
            case "memory":
                bytearray(1 << 40)
            case "recursion":
                return self.misbehave(how, engine)
            case "nul":
                return {"text": "\0"}
            case "nul-reason":
                raise InvalidOutput("it has \0 and \udcff")
            case "nan":
                return {"number": float("nan")}
            case "long":
                return {"text": "x" * (1 << 20)}
            case "deep":
                facts: dict[str, Any] = {}
                for _ in range(100):
                    facts = {"below": facts}
                return facts
        return {}

    def warm_file(self, job: Job) -> WarmFile | None:
        return None

    def serving(self, job: Job) -> Serving | None:
        return None

    def read_line(self, stage: Stage, line: str) -> Report | None:
        if not line.startswith("progress "):
            return None
        _, progress, *message = line.split(" ", 2)
        return Report(float(progress), "".join(message) or "compiling")

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        caller = ended.status == 2
        return Failure(
            cause="refused" if caller else "broke",
            fault=Fault.CALLER if caller else Fault.WORKER,
            detail=f"status {ended.status}",
            retryable=not caller,
        )


TOOLCHAIN = Quick()
