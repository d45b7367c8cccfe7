"""What a farm keeps, what it removes, and what a clean-up says of both."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from enginefarm.wire.bodies import Body, Page, Time

_Days = Annotated[float, Field(ge=0)]


class Policy(BaseModel):
    """Which engines are meant, and what keeps one of them: any of the things given. Pinned engines stay anyhow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(
        default=None, description="without the revision; * and ? stand for any text", examples=["hf:org/*"]
    )
    platform: str | None = Field(default=None, description="a GPU's name, or a platform's label")
    keep_last: int | None = Field(default=None, ge=0, description="the newest so many of a model and platform")
    keep_days: _Days | None = Field(default=None, description="what was published in the last days")
    keep_pulled_days: _Days | None = Field(default=None, description="what was pulled in the last days")

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if all(given is None for given in (self.keep_last, self.keep_days, self.keep_pulled_days)):
            raise ValueError("say what is kept: keep_last, keep_days or keep_pulled_days; 0 keeps nothing")
        return self


class CleanUpRequest(BaseModel):
    """A request to clean up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: tuple[Policy, ...] | None = Field(
        default=None, description="the first that means an engine decides on it; null: the farm's own"
    )
    dry_run: bool = Field(default=False, description="only say what would happen")


class RemovalCandidate(Body):
    """An engine or a checkpoint that is to be removed, or was."""

    kind: Literal["engine", "checkpoint"]
    key: str
    model: str | None = None
    platform: str | None = None
    size: int = Field(description="bytes of all its files; some may be in what stays, too")
    reason: str
    since: Time | None = Field(default=None, description="when it was marked; null: not before this clean-up")
    removed: bool = Field(default=False, description="its grace is over, and this clean-up removes it")


class Removal(Body):
    """An engine or a checkpoint that clean-ups removed."""

    kind: Literal["engine", "checkpoint"]
    key: str
    model: str | None = None
    manifest: str
    size: int = Field(description="bytes of all its files; some may be in what stayed, too")
    reason: str
    by: str | None = Field(default=None, description="name of the API key; null: nobody's")
    at: Time


class RemovalPage(Page):
    items: list[Removal]


class FileTotals(Body):
    files: int = 0
    size: int = 0


class CleanUpResult(Body):
    """What a clean-up did; or would do, of a dry run."""

    dry_run: bool
    going: list[RemovalCandidate] = Field(default_factory=list)
    frees: int = Field(default=0, description="bytes that nothing else needs once all of `going` is removed")
    deleted: FileTotals = Field(default_factory=FileTotals, description="files whose bytes are deleted")
    waiting: FileTotals = Field(default_factory=FileTotals, description="files that nothing refers to, in their grace")
    uploads: int = Field(default=0, description="abandoned uploads that were removed")
    grace_seconds: float = Field(description="between a mark and what it announces")
