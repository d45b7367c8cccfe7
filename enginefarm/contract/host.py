"""A machine as it reports itself: its platform, which binds engines, and its host, which binds none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.platform import Platform


class Host(BaseModel):
    """Facts about a machine that are recorded with what it builds. None of them enters a key."""

    model_config = ConfigDict(frozen=True)

    name: str
    cpu: str = Field(description="model name of the processor")
    cores: int
    memory_gib: int
    gpus: int = 0
    gpu_uuids: tuple[str, ...] = Field(
        default=(), description="of the GPUs that its programs see; of a divided GPU, those of its MIG devices"
    )
    scratch_gib: int | None = Field(
        default=None, description="GiB of scratch disk that were free when the worker started"
    )
    image: str | None = Field(
        default=None, description="the container image that it runs in; null if ENGINEFARM_IMAGE is not set"
    )
    isolation: tuple[str, ...] = Field(
        default=(),
        description="what isolates the programs of a worker's stages; the first is `sandbox` if nothing is missing",
    )
    versions: dict[str, str] = Field(
        default_factory=dict, description="packages of interest, from their metadata; `cuda` is the toolkit's"
    )


class Fingerprint(BaseModel):
    """What `enginefarm fingerprint` prints and a worker registers."""

    model_config = ConfigDict(frozen=True)

    platform: Platform
    host: Host
