"""A resolved model or data set: the immutable identity behind a reference, its files, and a model's facts.

Only the control plane and workers use this, and it is not in the wheel. It is in this package because `models` resolves
references and `toolchains` reads the facts, and those two do not import each other.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.digest import Digest
from enginefarm.contract.manifest import RelativePath
from enginefarm.contract.model.facts import ModelFacts


class ModelFile(BaseModel):
    """One file that a worker fetches. The source states `digest` or `etag` if it knows them before the fetch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: RelativePath
    size: Annotated[int, Field(ge=0, description="bytes")]
    digest: Digest | None = None
    etag: str | None = None


class ResolvedFiles(BaseModel):
    """A reference pinned to an immutable identity. The API sends it to the worker as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(
        description="where to fetch it; for a hub pinned to the commit",
        examples=["hf:org/name@6f0a0c1d2e3f405162738495a6b7c8d9e0f1a2b3"],
    )
    identity: dict[str, str] = Field(description="what enters the key: no path, no moving tag")
    files: tuple[ModelFile, ...]


class ResolvedModel(ResolvedFiles):
    """A model pinned to an immutable identity, with the facts of its `config.json`."""

    facts: ModelFacts
