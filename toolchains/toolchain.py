"""The interface of a toolchain. Its methods are pure functions: the control plane and the worker call the same ones.

A toolchain is a package below `toolchains/` with a module-level `TOOLCHAIN`, or an entry point of the group
`enginefarm.toolchains` that names such an object. No module outside its package knows its name. Third parties implement
this interface: the names of its methods and fields are public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.serving import Serving
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from enginefarm.wire.bodies import Failure


@dataclass(frozen=True)
class Release:
    """A version of the compiler that the toolchain can call."""

    version: str
    notes: str | None = None  # one line for people, shown by GET /v1/toolchains


@dataclass(frozen=True)
class Installed:
    """A version that is installed on this machine, and the stages that can run here."""

    version: str
    stages: tuple[Stage, ...]
    missing: tuple[str, ...] = ()  # for the worker's log: why a stage cannot run here


@dataclass(frozen=True)
class Directories:
    """The directories of one stage. `output` is empty when the stage starts; `scratch` is deleted after it."""

    source: Path  # the model (convert) or the checkpoint (build)
    output: Path
    scratch: Path
    inputs: Mapping[str, Path] = field(default_factory=dict)  # by the names of `toolchains.inputs`


@dataclass(frozen=True)
class Command:
    """One program of a stage, as an argument list: no shell interprets it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the worker's minimal environment
    span: tuple[float, float] = (0.0, 1.0)  # start and end of this program's part of the stage's progress
    # Folders and files that the program reads besides the system, the worker's Python, the folders of PATH, the folder
    # of the toolchain's own module, and the stage's directories. The sandbox shows it nothing else.
    readable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class WarmFile:
    """A cache file that makes a stage faster and changes no result. The farm keeps it from one run to the next.

    Before the programs run, the worker puts the file at `path` below the scratch directory, if the farm has one; after
    a successful run it keeps the file that is there then.
    """

    path: str
    good_for: Mapping[str, JsonValue]  # what the file depends on; the farm keeps one file for each such document


@dataclass(frozen=True)
class Needs:
    """Estimate of the memory and disk that a stage takes, in bytes, and its GPU. 0 means too little to check."""

    host_memory: int
    gpu_memory: int  # on each GPU that the stage uses
    gpu_memory_in_all: int  # on all GPUs of the machine together, for a stage that spreads over them
    scratch: int  # disk of the scratch directory
    # Only for convert: the program lays the weights out for the SM of the GPU that it runs on, so that SM enters the
    # checkpoint's key, and only a worker with it runs the stage.
    same_sm: bool = False

    @property
    def gpu(self) -> bool:
        """True if the stage needs a GPU."""
        return bool(self.gpu_memory or self.gpu_memory_in_all or self.same_sm)


@dataclass(frozen=True)
class Report:
    """The progress that one line of a program's output reports."""

    progress: float | None = None  # 0–1 of the stage
    message: str | None = None
    rank: int | None = None  # the rank that the line is about, if it names one
    peak_memory: int | None = None  # host memory, bytes
    peak_gpu_memory: int | None = None  # memory of one GPU, bytes

    def within(self, span: tuple[float, float]) -> Report:
        """The same report, with progress scaled from a program to its part of the stage; see `Command.span`."""
        if self.progress is None:
            return self
        start, end = span
        return replace(self, progress=round(start + (end - start) * self.progress, 3))


@dataclass(frozen=True)
class Exit:
    """How a program ended."""

    status: int  # as in `subprocess`: -N if signal N killed it
    tail: str  # the end of its output
    peak_memory: int | None = None  # host memory, bytes
    oom_killed: bool = False  # the kernel killed it for memory
    argv: tuple[str, ...] = ()  # its argument list


class InvalidOutput(Exception):
    """The programs succeeded, but the output directory contains no complete checkpoint or engine."""


class Toolchain(Protocol):
    """A named compiler with two stages, convert and build, in one or more versions."""

    name: str
    title: str
    binds_to: frozenset[str]  # the fields of Platform that an engine depends on; they enter its key
    convert_options: frozenset[str]  # options of the convert stage; all others belong to the build stage
    # Options whose value refers to a second model, or to a list of them → patterns of the files that are read of it.
    model_options: Mapping[str, tuple[str, ...]]

    def releases(self) -> Sequence[Release]:
        """Every version that the toolchain can call, newest first."""
        ...

    def installed(self) -> Sequence[Installed]:
        """The versions on this machine. Reads package metadata and imports no compiler: a worker calls it at start."""
        ...

    def options_schema(self, version: str) -> Mapping[str, Any]:
        """JSON Schema of `BuildSpec.options`, with descriptions and defaults."""
        ...

    def normalise(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> tuple[BuildSpec, Sequence[Problem]]:
        """Apply the compiler's defaults and rewrites.

        Returns:
            The spec that the key is made from, and a note for each change. Two specs that compile to the same engine
            should normalize to equal ones.
        """
        ...

    def preflight(self, spec: BuildSpec, facts: ModelFacts, platform: Platform) -> Sequence[Problem]:
        """Every reason why the normalized spec cannot be built; empty if it can."""
        ...

    def needs(self, job: Job) -> Needs:
        """Estimate the memory and disk of a stage, and say which GPU it needs. A convert's job has no platform."""
        ...

    def plan(self, job: Job, directories: Directories) -> Sequence[Command]:
        """The programs of the stage, in order. The stage fails with the first that fails."""
        ...

    def check_output(self, job: Job, directories: Directories) -> Mapping[str, JsonValue]:
        """Check that `directories.output` contains a complete checkpoint or engine.

        Programs that nobody trusts wrote the files: read them with `toolchains.output_files`. The worker calls this in
        a process of its own, which it kills when the stage is stopped or takes too long.

        Returns:
            Facts that the catalogue stores with it: at most 1 MiB of JSON.

        Raises:
            InvalidOutput: a file is missing or broken, or the output is not what the spec asks for.
        """
        ...

    def warm_file(self, job: Job) -> WarmFile | None:
        """The cache file of this stage; None if it has none."""
        ...

    def serving(self, job: Job) -> Serving | None:
        """How to start the engine of a build stage and lay out its files; None if the toolchain cannot tell."""
        ...

    def read_line(self, stage: Stage, line: str) -> Report | None:
        """The progress that a line of output reports; None for any other line."""
        ...

    def classify(self, stage: Stage, ended: Exit) -> Failure:
        """Why a program failed, whose fault it is, and whether another try can succeed."""
        ...


# The variables of the worker's environment that programs get. No others, so that no credential is among them.
PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",  # what a number in CUDA_VISIBLE_DEVICES means
    "NVIDIA_VISIBLE_DEVICES",
    "OPAL_PREFIX",  # where Open MPI is installed; programs that link to it do not start in NVIDIA's images without it
    "TZ",
)
