"""What a trusted farm vouches for in an engine's signed statement, and nothing else.

Whatever of a record is not in the statement must have a digest that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel
from rfc8785 import CanonicalizationError

from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.host import Host
from enginefarm.contract.key import CONVERT, Document, Key, key_of
from enginefarm.contract.platform import DriverBinding, Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.engine_record import EngineRecord


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Toolchain(_Part):
    name: str = Field(max_length=32)
    version: str = Field(max_length=32)


class _BuildDocument(_Part):
    document: Literal["enginefarm.build/1"]
    convert: Key
    toolchain: _Toolchain
    platform: dict[str, JsonValue]


class _Asked(_Part):
    spec: BuildSpec


class _Known(_Part):
    document: _BuildDocument
    platform: Platform


class _Definition(_Part):
    build_type: Literal["urn:enginefarm:engine:v1"]
    external_parameters: _Asked
    internal_parameters: _Known


class _Times(_Part):
    started_on: AwareDatetime
    finished_on: AwareDatetime


class _Run(_Part):
    metadata: _Times


class _Facts(_Part):
    host: Host | None = None


class _Predicate(_Part):
    """SLSA provenance, as `models.provenance` writes it."""

    build_definition: _Definition
    run_details: _Run
    facts: _Facts = Field(alias="enginefarm_facts")


@dataclass(frozen=True)
class VerifiedRecord:
    """What a trusted key vouches for: all of it was signed, or hashes to what was."""

    record: EngineRecord
    signer: str  # the key's id
    document: Document
    spec: dict[str, Any]
    toolchain: str
    version: str
    platform: Platform
    bound_to: dict[str, Any]
    facts: dict[str, Any]
    host: Host | None
    started_at: datetime
    ended_at: datetime

    @property
    def driver_binding(self) -> DriverBinding:
        """Whether the whole driver's version is in the key, or its branch alone."""
        driver = self.bound_to.get("driver")
        return "exact" if driver is not None and driver == self.platform.driver else "branch"


def verify_record(record: EngineRecord, trusted: TrustedKeys) -> VerifiedRecord:
    """
    Raises:
        IntegrityError: no trusted key signed it, or it is not what was signed.
        InvalidRequest: the statement is of a form that this version does not know.
    """
    verified = trusted.verify(record.attestation, key=record.key, manifest=record.manifest)
    said: Any = verified.statement.predicate
    found = _parsed(record.key, said)
    definition = found.build_definition
    known = definition.internal_parameters
    document = said["buildDefinition"]["internalParameters"]["document"]
    _require_hash(record.key, "the signed build document", document, record.key)
    _require_hash(record.key, "checkpoint_document", record.checkpoint_document, known.document.convert)
    if (version := record.checkpoint_document.get("document")) != CONVERT:
        raise InvalidRequest(_unknown(record.key, "checkpoint_document.document", version, f"expected {CONVERT!r}"))
    return VerifiedRecord(
        record=record,
        signer=verified.signer,
        document=document,
        spec=said["buildDefinition"]["externalParameters"]["spec"],
        toolchain=known.document.toolchain.name,
        version=known.document.toolchain.version,
        platform=known.platform,
        bound_to=dict(known.document.platform),
        facts=said["enginefarm_facts"],
        host=found.facts.host,
        started_at=found.run_details.metadata.started_on,
        ended_at=found.run_details.metadata.finished_on,
    )


def _parsed(key: Key, said: Any) -> _Predicate:
    try:
        return _Predicate.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidRequest(_unknown(key, f"predicate.{field}", first["input"], first["msg"])) from error


def _unknown(key: Key, field: str, value: object, expected: str) -> str:
    return (
        f"engine {key[:12]}: {field} is {str(value)[:100]!r}: {expected}; it comes from a farm of another version: "
        "upgrade the older of the two"
    )


def _require_hash(key: Key, what: str, document: Document, expected: Key) -> None:
    try:
        actual = key_of(document)
    except (CanonicalizationError, RecursionError) as error:
        raise IntegrityError(f"engine {key[:12]}: {what} has no canonical form: {error}") from error
    if actual != expected:
        raise IntegrityError(f"engine {key[:12]}: {what} hashes to {actual}, expected {expected}: it was changed")
