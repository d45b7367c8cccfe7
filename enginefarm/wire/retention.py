"""REST bodies of garbage collection: retention policies, what a run did, and the list of removals."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from typing_extensions import Self

from enginefarm.contract.bounded import Count, Days, Text
from enginefarm.wire.bodies import Body, Page, Time

MAX_GOING = 1000  # candidates that an answer lists; a full catalogue has millions


class Policy(BaseModel):
    """Which engines the policy covers (`model`, `platform`), and what keeps one of them: any of the `keep_` fields.

    Pinned engines are always kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text | None = Field(
        default=None, description="without the revision; * and ? stand for any text", examples=["hf:org/*"]
    )
    platform: Text | None = Field(default=None, description="a GPU's name, or a platform's label")
    keep_last: Count | None = Field(default=None, description="keep the N newest of each model and platform")
    keep_days: Days | None = Field(default=None, description="keep engines published in this many last days")
    keep_pulled_days: Days | None = Field(default=None, description="keep engines pulled in this many last days")

    @model_validator(mode="after")
    def require_rule(self) -> Self:
        # An empty policy more likely is a mistake than the wish to delete everything, which 0 states.
        rules = (self.keep_last, self.keep_days, self.keep_pulled_days)
        if all(rule is None for rule in rules):
            raise ValueError("say what is kept: keep_last, keep_days or keep_pulled_days; 0 keeps nothing")
        return self


class CleanUpRequest(BaseModel):
    """POST /v1/gc: run garbage collection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: tuple[Policy, ...] | None = Field(
        default=None,
        max_length=1000,
        description="the first policy that covers an engine decides; null for the farm's own policies",
    )
    dry_run: StrictBool = Field(default=False, description="report what would happen, change nothing")


class RemovalCandidate(Body):
    """An engine or a checkpoint that no policy keeps: to be removed, or just removed."""

    kind: Literal["engine", "checkpoint"]
    key: str
    model: str | None = None
    platform: str | None = None
    size: int = Field(description="bytes of all its files; some may be in what stays, too")
    reason: str
    since: Time | None = Field(default=None, description="when it was marked; null if not before this run")
    removed: bool = Field(default=False, description="its grace period is over, and this run removes it")


class Removal(Body):
    """An engine or a checkpoint that garbage collection removed."""

    kind: Literal["engine", "checkpoint"]
    key: str
    model: str | None = None
    manifest: str
    size: int = Field(description="bytes of all its files; some may be in what stayed, too")
    reason: str
    by: str | None = Field(default=None, description="name of the API key; null if the farm ran on its own")
    at: Time


class RemovalPage(Page):
    """The answer to GET /v1/removals."""

    items: list[Removal]


class FileTotals(Body):
    """How many files, and their bytes together."""

    files: int = 0
    size: int = 0


class CleanUpResult(Body):
    """What garbage collection did, or would do in a dry run."""

    dry_run: bool
    going: list[RemovalCandidate] = Field(
        default_factory=list, description=f"the first {MAX_GOING:,} candidates, engines before checkpoints"
    )
    total: int = Field(default=0, description="how many candidates there are")
    frees: int = Field(default=0, description="bytes that nothing refers to once all candidates are removed")
    deleted: FileTotals = Field(default_factory=FileTotals, description="files whose bytes are deleted")
    waiting: FileTotals = Field(default_factory=FileTotals, description="unreferenced files in their grace period")
    uploads: int = Field(default=0, description="abandoned uploads that were removed")
    grace_seconds: float = Field(description="seconds between a mark and the removal")
