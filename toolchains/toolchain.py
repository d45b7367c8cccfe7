"""What the farm asks of a toolchain. Pure functions: the control plane and the worker call the same ones.

A toolchain is a package below `toolchains/` with a module-level `TOOLCHAIN`, or an entry point of the group
`enginefarm.toolchains` that names such an object. Nothing outside its package knows its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure


@dataclass(frozen=True)
class Release:
    """One version that the toolchain knows how to call."""

    version: str
    notes: str | None = None


@dataclass(frozen=True)
class Installed:
    """A version found in this machine's environment, and the stages that it can really run here."""

    version: str
    stages: tuple[Stage, ...]
    missing: tuple[str, ...] = ()  # why a stage is not among them, for the worker's log


@dataclass(frozen=True)
class Directories:
    """Where a stage works. `source` is the model (convert) or the checkpoint (build); `output` is empty."""

    source: Path
    output: Path
    scratch: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)  # what is read beside it, as `toolchains.inputs` names it


@dataclass(frozen=True)
class Command:
    """One program of a stage, as an argument list. `environment` is added to the worker's minimal one."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    span: tuple[float, float] = (0.0, 1.0)  # the part of the stage's progress that is its own


@dataclass(frozen=True)
class WarmFile:
    """A file that makes a stage faster and that no result depends on. The farm keeps it from one run to the next.

    It is put at `path` below scratch before the programs run, if the farm has it, and taken from there after a
    good run. `good_for` names everything that it depends on: another document, another file.
    """

    path: str
    good_for: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Needs:
    """What a stage takes of a machine, in bytes, as an estimate. 0: nothing worth looking at."""

    host_memory: int
    gpu_memory: int  # on each GPU that it uses
    gpu_memory_in_all: int  # on the machine's GPUs together, where a stage spreads over them
    scratch: int

    @property
    def gpu(self) -> bool:
        """Whether it takes a GPU at all."""
        return bool(self.gpu_memory or self.gpu_memory_in_all)


@dataclass(frozen=True)
class Report:
    """What one line of output says about progress."""

    progress: float | None = None  # 0–1 of the stage
    message: str | None = None
    rank: int | None = None  # whose progress it is, where the line says so
    peak_memory: int | None = None  # bytes of the host that the stage held at most
    peak_gpu_memory: int | None = None  # bytes of a GPU

    def within(self, span: tuple[float, float]) -> Report:
        """The same, said by a program that is this part of the stage."""
        if self.progress is None:
            return self
        start, end = span
        return replace(self, progress=round(start + (end - start) * self.progress, 3))


@dataclass(frozen=True)
class Exit:
    """How a program ended: `status` as in `subprocess` (negative: killed by that signal)."""

    status: int
    tail: str  # the end of its output
    peak_memory: int | None = None  # bytes
    oom_killed: bool = False


class InvalidOutput(Exception):
    """The program said it succeeded, but what it left is not a checkpoint or an engine."""


class Toolchain(Protocol):
    """A named compiler with two stages, in one or more versions."""

    name: str
    title: str
    binds_to: frozenset[str]  # the fields of Platform that an engine is bound to
    convert_options: frozenset[str]  # the options that belong to convert; all others belong to build
    # Options whose value names a second model (a reference, or a list of them) → the files that are read of it.
    model_options: Mapping[str, tuple[str, ...]]

    def releases(self) -> Sequence[Release]:
        """Every version known, newest first."""
        ...

    def installed(self) -> Sequence[Installed]:
        """What is installed here, from package metadata; imports nothing heavy."""
        ...

    def options_schema(self, version: str) -> Mapping[str, Any]:
        """JSON Schema of `options`, with descriptions and defaults."""
        ...

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        """The spec as the compiler would take it (defaults and rewrites applied), and a note for each change."""
        ...

    def preflight(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> Sequence[Problem]:
        """Everything that makes the normalised spec impossible, at once."""
        ...

    def needs(self, job: Job) -> Needs:
        """How large a machine the stage wants."""
        ...

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        """The programs of the stage, in order."""
        ...

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        """Prove that `directories.output` is complete; returns facts worth keeping with it.

        Raises:
            InvalidOutput: saying what is missing or broken.
        """
        ...

    def warm_file(self, job: Job) -> WarmFile | None:
        """The file that makes this stage faster; None if it has none."""
        ...

    def serving(self, job: Job) -> Serving | None:
        """How the engine of this build job is started and laid out; None if there is nothing to say."""
        ...

    def read_line(self, stage: Stage, line: str) -> Report | None:
        """What a line of the program's output says about progress, if anything."""
        ...

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        """Why a program failed, whose fault it is, and whether another try can help."""
        ...


# Programs see these of the worker's environment and nothing else: no credential can be among them.
PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "OPAL_PREFIX",  # where Open MPI was moved to; without it, what links to it does not start in NVIDIA's images
    "TZ",
)
