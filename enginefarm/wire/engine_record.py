"""REST bodies for moving engines between farms: an engine's record, and what an import sends and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

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
    verification_summary: _Document | None = Field(
        default=None, description="of an engine that the exporting farm had imported: its own signed DSSE envelope"
    )

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Readers of before 0.2 refuse a field that they do not know, so a record that needs none has none.
        document: dict[str, Any] = serialize(self)
        if document["verification_summary"] is None:
            del document["verification_summary"]
        return document

    @property
    def sizes(self) -> dict[Digest, int]:
        """Bytes of each blob, by digest. Files with equal content are one blob."""
        return {entry.digest: entry.size for entry in self.manifest.files}


class ImportRequest(BaseModel):
    """POST /v1/engines:import: an engine to publish. Its blobs must be in the store already."""

    # Requests refuse unknown fields: a misspelled one must not change what is imported without a word.
    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineRecord
    # Not a grant: an API key of an administrator must not be worth as much as a farm's signing key. See ADR 0020.
    trusted_keys: list[Text] = Field(
        default_factory=list,
        max_length=16,
        description="Ed25519 public keys in PEM: only those that the farm's ENGINEFARM_IMPORT_TRUSTED_KEYS lists too "
        "count; empty: all of these",
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
