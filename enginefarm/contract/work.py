"""Work: what the API hands a worker about one action. It travels as JSON in the action's row.

`Work.stored` writes the JSON and `read_work` reads it; nothing else looks inside. How versions of the API and of
workers meet is decided in docs/adr/0014-typed-work.md:

- a row without a version is of version 1: that is how it was written before the version was in it;
- a writer writes the lowest version that says all it has to say, so that older workers go on;
- a reader refuses a version that it does not know with `UnreadableWork`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enginefarm.contract.errors import FarmError
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.model.resolved_files import ResolvedFiles, ResolvedModel
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage

READABLE_VERSIONS = frozenset({1, 2})


class UnreadableWork(FarmError):
    """This program cannot read the work. Another worker may: the action is tried again there."""

    code = "unreadable_work"


class Job(BaseModel):
    """One stage to run, with everything the toolchain needs to plan it."""

    # A field that a worker does not know could change what it must run, so it refuses the job. A new field therefore
    # needs a new version of Work.
    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    toolchain: str
    version: str
    spec: BuildSpec = Field(description="normalized")
    facts: ModelFacts
    platform: Platform | None = Field(description="None for convert")
    sm: str | None = Field(
        default=None,
        description="of a convert whose checkpoint is laid out for this compute capability: the worker's GPU must have "
        "it. Since version 2",
    )


class Work(BaseModel):
    """Everything a worker reads to run one action."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1, 2] = 1
    job: Job
    model: ResolvedModel | None = Field(
        default=None, description="what convert fetches; None for build, which starts from a checkpoint"
    )
    inputs: dict[str, ResolvedFiles] = Field(
        default={}, description="files that the stage reads besides the model, by their name in toolchains.inputs"
    )

    def stored(self) -> dict[str, Any]:
        """The JSON of an action's row. Absent model, inputs and SM are left out, as workers expect."""
        absent: dict[str, Any] = {}
        if self.model is None:
            absent["model"] = True
        if not self.inputs:
            absent["inputs"] = True
        if self.job.sm is None:
            absent["job"] = {"sm"}
        return self.model_dump(mode="json", exclude=absent)


def work_of(job: Job, *, model: ResolvedModel | None = None, inputs: Mapping[str, ResolvedFiles] | None = None) -> Work:
    """The work for this job, of the lowest version that says it."""
    version: Literal[1, 2] = 1
    if job.sm is not None:
        # A reader of version 1 would run the conversion on any GPU.
        version = 2
    return Work(version=version, job=job, model=model, inputs=dict(inputs or {}))


class ToolchainVersion(BaseModel):
    """The two fields of a job that every version of work has, imported work included."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    toolchain: str
    version: str


class ImportedWork(BaseModel):
    """In place of Work, in the row of an action whose engine came from another farm: it was never planned here.

    Its key says what the model is, but not where it can be fetched, so it cannot be run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    imported: Literal[True] = True
    job: ToolchainVersion

    def stored(self) -> dict[str, Any]:
        """The JSON of an action's row."""
        return self.model_dump(mode="json")


def read_work(stored: Mapping[str, Any]) -> Work:
    """The work in an action's row.

    Raises:
        UnreadableWork: it is of a version that this program does not know, is damaged, or was imported.
    """
    # The version comes first: work of a later one would fail with a list of unknown fields, and no reason.
    version = stored.get("version", 1)
    if version not in READABLE_VERSIONS:
        readable = ", ".join(map(str, sorted(READABLE_VERSIONS)))
        raise UnreadableWork(
            f"this action's work is of version {version}, and this program reads version {readable}: upgrade it"
        )
    if is_imported(stored):
        raise UnreadableWork("this action's engine was imported from another farm: it cannot be built here")
    try:
        return Work.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        pointer = "/" + "/".join(map(str, first["loc"]))
        raise UnreadableWork(
            f"this action's work claims version {version}, but is not valid: {pointer}: {first['msg']}; "
            "run the API and its workers on the same release"
        ) from error


def is_imported(stored: Mapping[str, Any]) -> bool:
    """True if the action's engine came from another farm and nobody has asked this farm to build it."""
    return bool(stored.get("imported", False))


def toolchain_of(stored: Mapping[str, Any]) -> ToolchainVersion:
    """The toolchain that an action is for, of work of any version, later and imported ones too."""
    return ToolchainVersion.model_validate(stored["job"])
