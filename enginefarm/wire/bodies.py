"""REST bodies: what the control plane answers and the client reads. Requests of one route have modules of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import EnginefarmError, Problem
from enginefarm.contract.host import Host
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import FileEntry
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.contract.str_enum import StrEnum

Progress = Annotated[float, Field(ge=0, le=1)]
Time = AwareDatetime


class Body(BaseModel):
    # An older client must survive a newer farm: fields that it does not know are dropped, not refused.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Disposition(StrEnum):
    """What a submit did: found the engine, joined a build of it, or created one."""

    CACHED = "cached"
    JOINED = "joined"
    CREATED = "created"


class BuildState(StrEnum):
    """The state of one caller's request."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the build will never change again."""
        return self in {BuildState.SUCCEEDED, BuildState.FAILED, BuildState.CANCELLED}


class Fault(StrEnum):
    """Whose fault a failure is. A worker's faults count toward quarantine; `Failure.retryable` decides on a retry."""

    CALLER = "caller"
    TOOLCHAIN = "toolchain"
    WORKER = "worker"
    FARM = "farm"


OUT_OF_MEMORY = "out_of_memory"  # the cause when the kernel killed a program for memory, in every toolchain


class Failure(Body):
    """Why an attempt or a build failed, and what a person can do about it."""

    cause: str = Field(examples=["out_of_memory"])
    fault: Fault
    detail: str
    advice: str | None = None
    retryable: bool = False


class PhysicalFile(FileEntry):
    """A file of an engine, with the URL under which the farm serves it."""

    # As in `Body`; a manifest's own entries refuse unknown fields, because all of their fields enter its digest.
    model_config = ConfigDict(extra="ignore")

    url: str


class EngineSummary(Body):
    """An engine in a list."""

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
    """One field in which an engine differs from the request."""

    pointer: str = Field(description="JSON pointer into the spec", examples=["/limits/max_batch_size"])
    wanted: JsonValue
    has: JsonValue = Field(description="the engine's value; null if it has no such field")


class Engine(EngineSummary):
    """An engine with everything that a serving node needs to decide whether it fits, and to fetch it."""

    spec: dict[str, JsonValue] = Field(description="the normalized spec")
    document: dict[str, JsonValue] = Field(description="the document whose SHA-256 is the key")
    checkpoint_document: dict[str, JsonValue] = Field(
        default_factory=dict, description="the document whose SHA-256 is `document.convert`"
    )
    bound_to: dict[str, JsonValue] = Field(description="the platform fields this engine is bound to")
    driver_binding: Literal["branch", "exact"]
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    effective: dict[str, JsonValue] = Field(
        default_factory=dict, description="the build settings that the engine's own config.json states"
    )
    differences: list[Difference] = Field(
        default_factory=list,
        description="where `effective` differs from the normalized spec",
    )
    contents: list[PhysicalFile]


class VerificationKey(Body):
    """An Ed25519 public key that checks this farm's attestations."""

    id: str = Field(description="the id by which an envelope names it")
    public_key: str = Field(description="PEM")
    current: bool = Field(default=True, description="false: it signs nothing any more; attestations made before stay")


class SigningKeyList(Body):
    """The answer to GET /v1/signing-keys."""

    items: list[VerificationKey]


class Attempt(Body):
    """One try of one stage by one worker."""

    stage: Stage
    number: int
    worker: str
    platform: Platform | None = Field(default=None, description="the worker's machine")
    host: Host | None = Field(default=None, description="its container image and the versions of its packages")
    outcome: str
    started_at: Time
    ended_at: Time | None = None
    failure: Failure | None = None
    steps: dict[str, float] = Field(default_factory=dict, description="seconds by step")
    warm: bool = Field(
        default=False, description="it started with warm files of an earlier run, such as kernel timings"
    )
    saved_seconds: float | None = Field(
        default=None, description="how much faster it was than the median without warm files; null if unknown"
    )


class Submitted(Body):
    """The answer to POST /v1/builds."""

    id: str
    key: Key
    disposition: Disposition
    state: BuildState
    engine: EngineSummary | None = None
    waiting_for: str | None = Field(default=None, description="why it does not start at once; null if it does")
    notes: list[Problem] = Field(default_factory=list, description="changes to the spec and advice; not errors")

    @property
    def status(self) -> int:
        """The HTTP status of this answer: 200 for an engine that exists, 202 for one that will be built."""
        # Joined is 202, too: the engine does not exist yet, whichever build was first.
        return 200 if self.disposition is Disposition.CACHED else 202


class Build(Body):
    """One caller's request, with its progress."""

    id: str
    key: Key
    disposition: Disposition
    state: BuildState
    stage: Stage | None = Field(default=None, description="the stage that runs or is next; null when ended")
    progress: Progress = 0.0
    message: str | None = Field(default=None, description="what the stage is doing, as the toolchain's log states it")
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
    spec: dict[str, JsonValue] = Field(default_factory=dict, description="the normalized spec")
    asked: dict[str, JsonValue] | None = Field(
        default=None, description="the spec as the caller wrote it, with both lengths; null if it was not stored"
    )
    attempts: list[Attempt] = Field(default_factory=list)
    error: Failure | None = None
    engine: EngineSummary | None = None


class Page(Body):
    """One page of a list."""

    next_cursor: str | None = Field(default=None, description="pass as ?cursor= for the next page; null at the end")


class BuildPage(Page):
    """The answer to GET /v1/builds."""

    items: list[Build]


class EnginePage(Page):
    """The answer to GET /v1/engines."""

    items: list[EngineSummary]


class Capability(Body):
    """One toolchain version that is installed on a worker, and the stages that the worker can run."""

    toolchain: str
    version: str
    stages: list[Stage]


class Worker(Body):
    """A worker of the fleet."""

    id: str
    name: str
    state: Literal["live", "draining", "quarantined", "gone"]
    platform: Platform
    host: Host
    capabilities: list[Capability]
    queues: list[str]
    running: str | None = Field(default=None, description="key of the action it runs; of several the latest")
    finishing: list[str] = Field(
        default=[], description="keys of earlier actions, whose output it checks, hashes and uploads meanwhile"
    )
    waits_for: str | None = Field(
        default=None, description="who uses a GPU of this worker; it takes nothing for its GPUs meanwhile"
    )
    quarantine: str | None = Field(default=None, description="why it is quarantined")
    started_at: Time
    last_seen_at: Time


class WorkerList(Body):
    """The answer to GET /v1/workers."""

    items: list[Worker]


class ToolchainVersion(Body):
    """One version of a toolchain, with the schema of its options."""

    version: str
    available: bool = Field(description="a live worker has it")
    notes: str | None = None
    options_schema: dict[str, Any] = Field(description="JSON Schema of `options`")


class Toolchain(Body):
    """A compiler that the farm can run."""

    name: str
    title: str
    versions: list[ToolchainVersion]


class ToolchainList(Body):
    """The answer to GET /v1/toolchains."""

    items: list[Toolchain]


class Dependency(Body):
    """One service that the control plane depends on: its database, broker or store."""

    ok: bool
    detail: str | None = None


class Readiness(Body):
    """The answer to GET /readyz."""

    ok: bool
    parts: dict[str, Dependency]


class ProblemDocument(Body):
    """The body of every error: application/problem+json (RFC 9457), with a stable `code`.

    For a refused spec, `errors` has all of its problems at once.
    """

    # RFC 9457: about:blank says that `title` needs no page that explains it; programs branch on `code`.
    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    errors: list[Problem] = Field(default_factory=list)

    @classmethod
    def of(cls, error: EnginefarmError) -> ProblemDocument:
        """Return the document for `error`."""
        return cls(
            title=error.title,
            status=error.status,
            detail=error.detail,
            code=error.code,
            errors=list(error.problems),
        )
