"""An engine as it moves from farm to farm: its manifest, what its farm signed, and what hashes to what was signed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from enginefarm.contract.digest import Digest
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import Manifest
from enginefarm.wire.bodies import Body, EngineSummary


class EngineRecord(BaseModel):
    """Everything of an engine but its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    manifest: Manifest
    checkpoint_document: dict[str, JsonValue] = Field(description="the document of the checkpoint it was built from")
    attestation: dict[str, JsonValue] = Field(description="the signed DSSE envelope, as the farm that built it gave it")

    @property
    def sizes(self) -> dict[Digest, int]:
        """Bytes of each blob."""
        return {entry.digest: entry.size for entry in self.manifest.files}


class ImportRequest(BaseModel):
    """An engine to take into the catalogue. Its bytes are in the store already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineRecord
    trusted_keys: list[str] = Field(
        min_length=1, max_length=16, description="Ed25519 public keys in PEM, of which one must have signed it"
    )


class ImportResult(Body):
    """What became of it."""

    outcome: Literal["imported", "there", "kept"] = Field(
        description="there: it was there before, nothing changed. kept: the farm has another engine under this key, "
        "built by itself, and goes on serving that"
    )
    engine: EngineSummary


class BlobSizes(BaseModel):
    """Blobs that somebody would send."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blobs: dict[Digest, int] = Field(max_length=10_000, description="bytes by digest")


class MissingBlobs(Body):
    items: list[Digest] = Field(description="those to be sent: the store lacks them, or holds them damaged")
