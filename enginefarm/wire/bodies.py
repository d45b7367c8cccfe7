"""The bodies that travel over REST: what the control plane answers and the client reads."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import EnginefarmError, Problem
from enginefarm.contract.host import Host
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import FileEntry
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage

Progress = Annotated[float, Field(ge=0, le=1)]
Time = AwareDatetime


class Body(BaseModel):
    # A client must survive a newer farm: fields it does not know are dropped, not refused.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Disposition(StrEnum):
    CACHED = "cached"
    JOINED = "joined"
    CREATED = "created"


class BuildState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in {BuildState.SUCCEEDED, BuildState.FAILED, BuildState.CANCELLED}


class Fault(StrEnum):
    """Whose fault a failure is; that decides whether another try can help."""

    CALLER = "caller"
    TOOLCHAIN = "toolchain"
    WORKER = "worker"
    FARM = "farm"


OUT_OF_MEMORY = "out_of_memory"  # the cause of a kill for memory, whatever the toolchain


class Failure(Body):
    """Why an attempt or a build failed, in words that a person can act on."""

    cause: str = Field(examples=["out_of_memory"])
    fault: Fault
    detail: str
    advice: str | None = None
    retryable: bool = False


class PhysicalFile(FileEntry):
    """A file of an engine, with the link under which the farm serves it."""

    model_config = ConfigDict(extra="ignore")  # as `Body`: it is no part of a manifest's digest

    url: str


class EngineSummary(Body):
    key: Key
    model: str
    toolchain: str
    version: str
    platform: Platform
    manifest: Digest
    size: int = Field(description="bytes of all files together")
    files: int
    created_at: Time
    pinned: bool = False


class Difference(Body):
    """One field in which an engine is not what was asked for."""

    pointer: str = Field(description="JSON pointer into the spec", examples=["/limits/max_batch_size"])
    wanted: JsonValue
    has: JsonValue = Field(description="what the engine has; null where it has no such field")


class Engine(EngineSummary):
    """An engine with everything a serving node needs to fetch it and to decide whether it fits."""

    spec: dict[str, JsonValue] = Field(description="the normalised spec")
    document: dict[str, JsonValue] = Field(description="the document whose SHA-256 is the key")
    checkpoint_document: dict[str, JsonValue] = Field(
        default_factory=dict, description="the document whose SHA-256 is `document.convert`"
    )
    bound_to: dict[str, JsonValue] = Field(description="the platform fields this engine is bound to")
    driver_binding: Literal["branch", "exact"]
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    effective: dict[str, JsonValue] = Field(
        default_factory=dict, description="how the engine itself says that it was built"
    )
    differences: list[Difference] = Field(
        default_factory=list, description="where that is not the normalised spec; empty if all was foreseen"
    )
    contents: list[PhysicalFile]


class VerificationKey(Body):
    """An Ed25519 public key that checks this farm's attestations."""

    id: str = Field(description="how an envelope names it")
    public_key: str = Field(description="PEM")


class SigningKeyList(Body):
    items: list[VerificationKey]


class Attempt(Body):
    stage: Stage
    number: int
    worker: str
    platform: Platform | None = Field(default=None, description="the worker's machine")
    host: Host | None = Field(default=None, description="its image and the versions found there")
    outcome: str
    started_at: Time
    ended_at: Time | None = None
    failure: Failure | None = None
    steps: dict[str, float] = Field(default_factory=dict, description="seconds by step")
    warm: bool = Field(
        default=False, description="it started from what an earlier run had found out, as kernel timings"
    )
    saved_seconds: float | None = Field(
        default=None, description="how much faster than the median without a warm start; null: not known"
    )


class Submitted(Body):
    """The answer to POST /v1/builds."""

    id: str
    key: Key
    disposition: Disposition
    state: BuildState
    engine: EngineSummary | None = None
    waiting_for: str | None = Field(default=None, description="why it does not start at once; null if it does")
    notes: list[Problem] = Field(default_factory=list, description="what was changed or is worth knowing; not errors")

    @property
    def status(self) -> int:
        """The HTTP status of this answer."""
        return 200 if self.disposition is Disposition.CACHED else 202


class Build(Body):
    id: str
    key: Key
    disposition: Disposition
    state: BuildState
    stage: Stage | None = Field(default=None, description="the stage that runs or is next; null when ended")
    progress: Progress = 0.0
    message: str | None = Field(default=None, description="what the stage is doing, in the toolchain's words")
    eta_seconds: float | None = None
    queue_position: int | None = None
    waiting_for: str | None = Field(default=None, description="why a queued build waits")
    model: str
    toolchain: str
    version: str
    platform: Platform
    requested_by: str | None = None
    created_at: Time
    ended_at: Time | None = None
    spec: dict[str, JsonValue] = Field(default_factory=dict, description="normalised")
    asked: dict[str, JsonValue] | None = Field(
        default=None, description="the spec as the caller wrote it, with both lengths; null where that was not kept"
    )
    attempts: list[Attempt] = Field(default_factory=list)
    error: Failure | None = None
    engine: EngineSummary | None = None


class Page(Body):
    next_cursor: str | None = Field(default=None, description="pass as ?cursor= for the next page; null at the end")


class BuildPage(Page):
    items: list[Build]


class EnginePage(Page):
    items: list[EngineSummary]


class Capability(Body):
    """One toolchain version that a worker really has, and the stages it can run."""

    toolchain: str
    version: str
    stages: list[Stage]


class Worker(Body):
    id: str
    name: str
    state: Literal["live", "draining", "quarantined", "gone"]
    platform: Platform
    host: Host
    capabilities: list[Capability]
    queues: list[str]
    running: str | None = Field(default=None, description="key of the action it runs")
    quarantine: str | None = Field(default=None, description="why it is quarantined")
    started_at: Time
    last_seen_at: Time


class WorkerList(Body):
    items: list[Worker]


class ToolchainVersion(Body):
    version: str
    available: bool = Field(description="a live worker has it")
    notes: str | None = None
    options_schema: dict[str, Any] = Field(description="JSON Schema of `options`")


class Toolchain(Body):
    name: str
    title: str
    versions: list[ToolchainVersion]


class ToolchainList(Body):
    items: list[Toolchain]


class Dependency(Body):
    """One thing the control plane depends on."""

    ok: bool
    detail: str | None = None


class Readiness(Body):
    ok: bool
    parts: dict[str, Dependency]


class ProblemDocument(Body):
    """application/problem+json (RFC 9457), with `code` and, for a bad spec, all `errors` at once."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    errors: list[Problem] = Field(default_factory=list)

    @classmethod
    def of(cls, error: EnginefarmError) -> ProblemDocument:
        return cls(
            title=error.title,
            status=error.status,
            detail=error.detail,
            code=error.code,
            errors=list(error.problems),
        )
