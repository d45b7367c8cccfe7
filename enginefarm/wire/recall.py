"""REST bodies of recalls and repairs: withdraw engines by their origin, and inspect an engine's bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, model_validator
from typing_extensions import Self

from enginefarm.contract.bounded import WITHOUT_NUL, Text
from enginefarm.contract.key import Key
from enginefarm.wire.bodies import Body

# Engines whose weights are laid out for one SM, from a checkpoint whose key names none: all of them, or those that were
# not converted, as far as the farm knows, on a GPU with the engine's SM.
Layout = Literal["unnamed_sm", "other_sm"]


class Recall(BaseModel):
    """POST /v1/engines:recall: withdraw everything that meets all of these conditions; at least one must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: Text | None = Field(default=None, description="name or id of the worker that built it")
    toolchain: Text | None = Field(default=None, description="name of the toolchain that built it")
    version: Text | None = Field(default=None, description="version of the toolchain")
    since: AwareDatetime | None = Field(default=None, description="published at this time or later")
    until: AwareDatetime | None = Field(default=None, description="published before this time")
    layout: Layout | None = Field(
        default=None,
        description="its weights are laid out for one SM (int8_wo, int4_wo, GPTQ, AutoAWQ), and it was converted by a "
        "release whose checkpoint keys name no SM. `unnamed_sm`: all such engines and checkpoints; `other_sm`: such "
        "engines whose conversion ran, or may have run, on a GPU of another SM",
    )
    dry_run: StrictBool = Field(default=False, description="only list what would be withdrawn")
    reason: str = Field(
        default="recalled", min_length=1, max_length=500, pattern=WITHOUT_NUL, description="what readers are told"
    )
    rebuild: StrictBool = Field(default=False, description="rebuild now, instead of at the next request")

    @model_validator(mode="after")
    def require_condition(self) -> Self:
        conditions = (self.worker, self.toolchain, self.since, self.until, self.layout)
        if all(condition is None for condition in conditions):
            raise ValueError(
                "give a worker, a toolchain, a layout, or a time: a recall of everything is most often a mistake"
            )
        if self.version is not None and self.toolchain is None:
            raise ValueError("give the toolchain whose version this is")
        return self


class WithdrawalResult(Body):
    """What a recall or a repair withdrew, or would have. The rows stay; publishing the same key again restores it."""

    engines: list[Key] = Field(default_factory=list)
    checkpoints: list[Key] = Field(default_factory=list)
    workers: list[str] = Field(default_factory=list, description="ids of the workers that were quarantined")
    builds: list[str] = Field(default_factory=list, description="ids of the builds that rebuild it")
    not_rebuilt: list[Key] = Field(
        default_factory=list,
        description="imported and never submitted here, of a later release, or of a spec that this farm cannot plan "
        "any more: import or submit them again",
    )


class Damage(BaseModel):
    """POST /v1/engines/{key}:damaged: a client received wrong bytes for these files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paths: list[Text] = Field(min_length=1, max_length=100, description="as in the manifest")


class Inspection(Body):
    """The result of reading an engine's files in the store again."""

    key: Key
    damaged: list[str] = Field(description="paths whose bytes are missing or wrong; empty if all are right")
    taken_out: WithdrawalResult
