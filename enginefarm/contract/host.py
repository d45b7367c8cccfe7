"""What a worker or serving node reports of its machine: the platform that binds engines, facts that bind none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.platform import Platform


class Host(BaseModel):
    """Facts worth recording that bind no engine."""

    model_config = ConfigDict(frozen=True)

    name: str
    cpu: str = Field(description="model name of the processor")
    cores: int
    memory_gib: int
    gpus: int = 0
    scratch_gib: int | None = Field(default=None, description="free for builds when the worker started")
    image: str | None = Field(default=None, description="the container image that it runs in, if it was told")
    versions: dict[str, str] = Field(
        default_factory=dict, description="packages of interest, from their metadata; `cuda` is the toolkit's"
    )


class Fingerprint(BaseModel):
    model_config = ConfigDict(frozen=True)

    platform: Platform
    host: Host
