"""REST bodies for moving engines between farms: an engine's record, and what an import sends and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from enginefarm.contract.bounded import Count, Text
from enginefarm.contract.digest import Digest
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.portable import portable
from enginefarm.wire.bodies import Body, EngineSummary

_Document = Annotated[dict[str, JsonValue], AfterValidator(portable)]


class EngineRecord(BaseModel):
    """An engine without its bytes: enough for another farm to verify and publish it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    manifest: Manifest
    checkpoint_document: _Document = Field(description="the document of its checkpoint")
    attestation: _Document = Field(description="the signed DSSE envelope of the farm that built it")

    @property
    def sizes(self) -> dict[Digest, int]:
        """Bytes of each blob, by digest. Files with equal content are one blob."""
        return {entry.digest: entry.size for entry in self.manifest.files}


class ImportRequest(BaseModel):
    """POST /v1/engines:import: an engine to publish. Its blobs must be in the store already."""

    # Requests refuse unknown fields: a misspelled one must not change what is imported without a word.
    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineRecord
    # The administrator names them with each import: the farm keeps no list of farms that it trusts.
    trusted_keys: list[Text] = Field(
        min_length=1, max_length=16, description="Ed25519 public keys in PEM, of which one must have signed it"
    )


class ImportResult(Body):
    """What an import did."""

    outcome: Literal["imported", "there", "kept"] = Field(
        description="there: the farm had it, nothing changed. kept: the farm serves another engine under this key, "
        "which it built itself, and keeps it"
    )
    engine: EngineSummary


class BlobSizes(BaseModel):
    """POST /v1/blobs:missing: blobs that an import would send."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blobs: dict[Digest, Count] = Field(
        max_length=10_000, json_schema_extra={"additionalProperties": False}, description="bytes by digest"
    )


class MissingBlobs(Body):
    """The answer to POST /v1/blobs:missing."""

    items: list[Digest] = Field(description="blobs to send: the store lacks them, or its copies are damaged")
