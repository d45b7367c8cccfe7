"""What a submit would do, and why: the answer to POST /v1/builds:explain."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, JsonValue

from enginefarm.contract.errors import Problem
from enginefarm.contract.key import Key
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Body, Difference, EngineSummary


class Verdict(StrEnum):
    HIT = "hit"  # the engine is there
    JOIN = "join"  # somebody is building it
    NEAR = "near"  # it would be built, and engines of this model are there to compare with
    MISS = "miss"  # it would be built, and the farm has nothing of this model


class NearEngine(Body):
    engine: EngineSummary
    differences: list[Difference]


class Outlook(Body):
    """What one stage can expect. A stage whose result is there is not run."""

    stage: Stage
    key: Key
    queue: str
    done: bool
    workers: list[str] = Field(description="the live workers that could take it")
    waiting_for: str | None = Field(default=None, description="why it would wait, or waits; null if it would start now")
    seconds: float | None = Field(default=None, description="what it will probably take once it runs; null: no idea")


class PlannedCommand(Body):
    """One program that a worker would run, with names in place of its directories.

    `{source}` is the model (convert) or the checkpoint (build), `{output}` the empty directory for the result,
    `{scratch}` the working directory, `{calibration}` the calibration data of a precision that needs some, and
    `{OPTION}` the model that this option names (`{OPTION.0}` the first of a list). The
    farm's own programs have the control plane's paths.
    """

    stage: Stage
    argv: list[str] = Field(description="no shell reads this: one string, one argument")
    environment: dict[str, str] = Field(default_factory=dict, description="added to a minimal environment")


class Explanation(Body):
    verdict: Verdict
    key: Key | None = Field(default=None, description="null if the spec is too far from whole to have one")
    convert_key: Key | None = None
    spec: dict[str, JsonValue] = Field(description="normalised as far as it could be")
    notes: list[Problem] = Field(default_factory=list, description="what was changed or is worth knowing; not errors")
    findings: list[Problem] = Field(default_factory=list, description="what a submit would be refused for, all of it")
    build_id: str | None = Field(default=None, description="a build that a submit would join")
    engine: EngineSummary | None = None
    nearest: list[NearEngine] = Field(default_factory=list, description="the fewest differences first")
    stages: list[Outlook] = Field(default_factory=list)
    predicted_minutes: float | None = Field(
        default=None, description="running time of what is left to do, without waiting; null: no idea"
    )
    commands: list[PlannedCommand] = Field(
        default_factory=list, description="every program of both stages, in order; empty if a submit would be refused"
    )
