"""What an administrator takes out, and what the farm finds damaged."""

from __future__ import annotations

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from enginefarm.contract.key import Key
from enginefarm.wire.bodies import Body


class Recall(BaseModel):
    """Everything that was built where and when all that is given here says; at least one thing must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: str | None = Field(default=None, description="name or id of the worker that built it")
    toolchain: str | None = Field(default=None, description="name of the toolchain that built it")
    version: str | None = Field(default=None, description="of the toolchain")
    since: AwareDatetime | None = Field(default=None, description="published then or later")
    until: AwareDatetime | None = Field(default=None, description="published before then")
    reason: str = Field(default="recalled", min_length=1, max_length=500, description="what readers are told")
    rebuild: bool = Field(default=False, description="build all of it anew now, not only when somebody asks")

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        if all(given is None for given in (self.worker, self.toolchain, self.since, self.until)):
            raise ValueError("give a worker, a toolchain, or a time: a recall of everything is most often a mistake")
        if self.version is not None and self.toolchain is None:
            raise ValueError("give the toolchain whose version this is")
        return self


class WithdrawalResult(Body):
    """What is no longer served. It stays in the catalogue; publishing it anew brings it back."""

    engines: list[Key] = Field(default_factory=list)
    checkpoints: list[Key] = Field(default_factory=list)
    workers: list[str] = Field(default_factory=list, description="ids of the workers that were quarantined with it")
    builds: list[str] = Field(default_factory=list, description="ids of the builds that make it anew")
    not_rebuilt: list[Key] = Field(
        default_factory=list,
        description="imported, and never asked for here: import them again, or submit their specs",
    )


class Damage(BaseModel):
    """A client found the bytes of these files wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: list[str] = Field(min_length=1, max_length=100, description="as in the manifest")


class Inspection(Body):
    """What the farm found when it read an engine's files in the store again."""

    key: Key
    damaged: list[str] = Field(description="paths whose bytes are missing or wrong; empty if all is well")
    taken_out: WithdrawalResult
