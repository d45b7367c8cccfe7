"""POST /v1/engines:resolve: what a serving node requires of an engine, and the best engine for it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from enginefarm.contract.errors import InvalidSpec
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.platform import PlatformSelector
from enginefarm.contract.portable import PortableValue
from enginefarm.contract.spec import Limits, OptionName, Parallelism, Precision, ToolchainRef, problems_of
from enginefarm.wire.bodies import Body, Difference, Engine


class EngineRequirements(BaseModel):
    """What an engine must be able to do, and where. Every spec is a valid value; omitted fields match all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        max_length=1024,
        description="as in a spec; without a revision, that of the newest engine of this model",
    )
    toolchain: ToolchainRef | None = None
    precision: Precision | None = Field(default=None, description="dtype `auto` matches any")
    parallelism: Parallelism | None = None
    limits: Limits = Field(default_factory=Limits, description="at least these; defaults as in a spec")
    options: dict[OptionName, PortableValue] = Field(
        default_factory=dict,
        description="options that must have these values; options for adapters and draft heads must be null if omitted",
        max_length=256,
        json_schema_extra={"additionalProperties": False},  # Pydantic states the pattern of the names alone
    )
    platform: PlatformSelector = Field(
        default_factory=PlatformSelector, description="the node's platform; omitted fields are not checked"
    )

    @field_validator("model")
    @classmethod
    def canonical_reference(cls, value: str) -> str:
        return str(model_reference.parse(value))

    @classmethod
    def parse(cls, document: object) -> EngineRequirements:
        """Return the requirements that `document`, a parsed JSON object, states.

        Raises:
            InvalidSpec: with every problem at once, each with a JSON pointer.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise InvalidSpec(problems_of(error.errors(include_url=False))) from None


class Resolution(Body):
    """The best engine that runs on the platform: one with exactly these limits, else the smallest that covers them."""

    engine: Engine
    exact: bool = Field(description="its limits equal the requested ones")
    differences: list[Difference] = Field(default_factory=list, description="limits that are larger than requested")
    unchecked: list[str] = Field(
        default_factory=list, description="platform fields that the engine is bound to and the request omits"
    )
