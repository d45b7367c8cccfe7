"""Which engine a node should load: what it asks, and what the farm answers to POST /v1/engines:resolve."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from enginefarm.contract import model_reference
from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.platform import PlatformSelector
from enginefarm.contract.spec import Limits, OptionName, Parallelism, Precision, ToolchainRef, problems_of
from enginefarm.wire.bodies import Body, Difference, Engine


class EngineRequirements(BaseModel):
    """What an engine must be able to do, and where. A spec is one, too; what is left out does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        max_length=1024,
        description="as in a spec; without a revision, what the newest engine of this model was made from",
    )
    toolchain: ToolchainRef | None = None
    precision: Precision | None = Field(default=None, description="dtype auto: any")
    parallelism: Parallelism | None = None
    limits: Limits = Field(default_factory=Limits, description="at least these; defaults as in a spec")
    options: dict[OptionName, JsonValue] = Field(
        default_factory=dict,
        description="those that must be so; any that names adapters or draft heads is null unless it is here",
        max_length=256,
    )
    platform: PlatformSelector = Field(
        default_factory=PlatformSelector, description="the node; fields that are left out are not checked"
    )

    @field_validator("model")
    @classmethod
    def _known_form(cls, value: str) -> str:
        return str(model_reference.parse(value))

    @classmethod
    def parse(cls, data: object) -> EngineRequirements:
        """Raises InvalidSpec with every problem, each with a JSON pointer."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidSpec(problems_of(error.errors(include_url=False))) from None


class Resolution(Body):
    """The best engine that runs there: one of exactly these limits, else the smallest that covers them."""

    engine: Engine
    exact: bool = Field(description="its limits are the ones asked for, none larger")
    differences: list[Difference] = Field(default_factory=list, description="the limits that are larger")
    unchecked: list[str] = Field(
        default_factory=list, description="platform fields that the engine is bound to and the request left out"
    )
