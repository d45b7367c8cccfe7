"""What the API hands a worker: the job of one stage."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage


class Job(BaseModel):
    """One stage to run, with everything the toolchain needs to plan it. Travels in the action's row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    toolchain: str
    version: str
    spec: BuildSpec  # normalised
    facts: ModelFacts
    platform: Platform | None  # None for convert: a checkpoint depends on no GPU
