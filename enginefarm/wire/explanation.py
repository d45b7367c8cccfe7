"""The answer to POST /v1/builds:explain: what a submit would do, and why."""

from __future__ import annotations

from pydantic import Field, JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.key import Key
from enginefarm.contract.stage import Stage
from enginefarm.contract.str_enum import StrEnum
from enginefarm.wire.bodies import Body, Difference, EngineSummary


class Verdict(StrEnum):
    """What a submit would find in the catalogue."""

    HIT = "hit"  # the engine exists
    JOIN = "join"  # it is being built
    NEAR = "near"  # it would be built; the catalogue has other engines of this model
    MISS = "miss"  # it would be built; the catalogue has no engine of this model


class NearEngine(Body):
    """An engine of the same model, and where it differs from the spec."""

    engine: EngineSummary
    differences: list[Difference]


class Outlook(Body):
    """What one stage would wait for, and how long it would run. A stage whose output exists is not run."""

    stage: Stage
    key: Key
    queue: str
    done: bool
    workers: list[str] = Field(description="live workers that could run it")
    waiting_for: str | None = Field(default=None, description="why it would wait, or waits; null if it would start now")
    seconds: float | None = Field(default=None, description="its predicted running time; null if nothing is known")


class PlannedCommand(Body):
    """One program that a worker would run, with placeholders for its directories.

    `{source}` is the model (convert) or the checkpoint (build), `{output}` the empty directory for the result,
    `{scratch}` the working directory, `{calibration}` the calibration data of a precision that needs some, and
    `{OPTION}` the model that this option names (`{OPTION.0}` the first of a list). Paths of the farm's own programs are
    those of the control plane; a worker has its own.
    """

    stage: Stage
    argv: list[str] = Field(description="no shell reads this: one string, one argument")
    environment: dict[str, str] = Field(default_factory=dict, description="added to a minimal environment")


class Explanation(Body):
    """What a submit would do."""

    verdict: Verdict
    key: Key | None = Field(default=None, description="null if the spec is too incomplete to have one")
    convert_key: Key | None = None
    spec: dict[str, JsonValue] = Field(description="the spec, normalized as far as possible")
    notes: list[Problem] = Field(default_factory=list, description="changes to the spec and advice; not errors")
    findings: list[Problem] = Field(default_factory=list, description="every reason to refuse a submit")
    build_id: str | None = Field(default=None, description="a build that a submit would join")
    engine: EngineSummary | None = None
    nearest: list[NearEngine] = Field(default_factory=list, description="the fewest differences first")
    stages: list[Outlook] = Field(default_factory=list)
    predicted_minutes: float | None = Field(
        default=None, description="predicted running time of the stages that are left, without waiting; null if unknown"
    )
    commands: list[PlannedCommand] = Field(
        default_factory=list, description="every program of both stages, in order; empty if a submit would be refused"
    )
