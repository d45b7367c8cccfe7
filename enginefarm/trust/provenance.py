"""Verify an engine's record against the SLSA provenance that a trusted key signed.

The attestation (see `enginefarm.trust.attestation`) binds two names: the engine's key and its manifest's digest. Its
predicate is SLSA Provenance v1 as `models.queries.provenance` writes it. `verify_record` checks, in this order:

1. the DSSE envelope: one trusted key signed it, and its subject is this key and this manifest; or such a key signed a
   verification summary of it (see `enginefarm.trust.verification_summary`);
2. the predicate has the form of build type `urn:enginefarm:engine:v1`;
3. the versions of the build document and of the checkpoint document are the ones that this program reads;
4. the signed build document hashes to the engine's key;
5. the checkpoint document, which is not signed itself, hashes to the `convert` key in the signed build document.

Everything in a `VerifiedRecord` is therefore signed, or hashes to something that is signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from enginefarm.contract.document_version import require_version
from enginefarm.contract.errors import InvalidRequest
from enginefarm.contract.host import Host
from enginefarm.contract.key import BUILD, CONVERT_VERSIONS, Document, Key
from enginefarm.contract.platform import DriverBinding, Platform
from enginefarm.contract.spec import BuildSpec
from enginefarm.trust.attestation import BUILD_TYPE, TrustedKeys
from enginefarm.trust.verification_summary import verify_provenance
from enginefarm.wire.engine_binding import require_key
from enginefarm.wire.engine_record import EngineRecord


class _Section(BaseModel):
    """A part of the predicate. SLSA writes its fields in camelCase; other builders may add fields, which do no harm."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class _Toolchain(_Section):
    name: str = Field(max_length=32)
    version: str = Field(max_length=32)


class _BuildDocument(_Section):
    document: str  # its version, checked after its form
    convert: Key
    toolchain: _Toolchain
    platform: dict[str, JsonValue]


class _ExternalParameters(_Section):
    """What the caller controls, in SLSA's terms: the spec."""

    spec: BuildSpec


class _InternalParameters(_Section):
    """What the farm decided, in SLSA's terms: the build document and the machine."""

    document: _BuildDocument
    platform: Platform


class _BuildDefinition(_Section):
    build_type: str
    external_parameters: _ExternalParameters
    internal_parameters: _InternalParameters


class _RunMetadata(_Section):
    started_on: AwareDatetime
    finished_on: AwareDatetime


class _RunDetails(_Section):
    metadata: _RunMetadata


class _Facts(_Section):
    host: Host | None = None


class _Predicate(_Section):
    """SLSA Provenance v1, with the farm's own facts in an extension field."""

    build_definition: _BuildDefinition
    run_details: _RunDetails
    facts: _Facts = Field(alias="enginefarm_facts")


@dataclass(frozen=True)
class VerifiedRecord:
    """An engine's record, and the statements about it that a trusted key signed."""

    record: EngineRecord
    signer: str  # id of the trusted key, which signed the provenance or its verification summary
    document: Document  # hashes to the engine's key
    spec: dict[str, Any]
    toolchain: str
    version: str  # of the toolchain
    platform: Platform  # of the worker that built it
    bound_to: dict[str, Any]  # the platform fields in the key
    facts: dict[str, Any]
    host: Host | None  # of the worker; None where the farm recorded none
    started_at: datetime
    ended_at: datetime

    @property
    def driver_binding(self) -> DriverBinding:
        """`exact` if the whole driver version is in the key, `branch` if only its first number is, or none."""
        driver = self.bound_to.get("driver")
        if driver is not None and driver == self.platform.driver:
            return "exact"
        return "branch"


def verify_record(record: EngineRecord, trusted: TrustedKeys) -> VerifiedRecord:
    """Return what a trusted key signed about `record`: see the checks at the top of this module.

    Raises:
        IntegrityError: no trusted key signed the record, or it is not what was signed.
        InvalidRequest: the statement, or a document in it, is of a version that this program does not read.
    """
    engine = f"engine {record.key[:12]}"
    attestation = verify_provenance(
        trusted, record.attestation, record.verification_summary, key=record.key, manifest=record.manifest
    )
    signed: Any = attestation.statement.predicate
    try:
        predicate = _Predicate.model_validate(signed)
    except ValidationError as error:
        mistake = error.errors()[0]
        field = ".".join(str(step) for step in mistake["loc"])
        # A trusted farm signed it, so it is no forgery: a farm of another version writes it in another form.
        raise InvalidRequest(
            f"{engine}: predicate.{field} is {str(mistake['input'])[:100]!r}: {mistake['msg']}; "
            "it comes from a farm of another version: upgrade the older of the two"
        ) from error
    definition = predicate.build_definition
    build = definition.internal_parameters.document
    require_version(engine, "predicate.buildDefinition.buildType", definition.build_type, BUILD_TYPE)
    require_version(engine, "predicate.buildDefinition.internalParameters.document.document", build.document, BUILD)

    # The hashes are over the documents as they were signed or sent, not as they were parsed: parsing drops fields.
    document = signed["buildDefinition"]["internalParameters"]["document"]
    require_key(record.key, "the signed build document", document, record.key)
    require_key(record.key, "checkpoint_document", record.checkpoint_document, build.convert)
    checkpoint_version = record.checkpoint_document.get("document")
    require_version(engine, "checkpoint_document.document", checkpoint_version, *CONVERT_VERSIONS)
    return VerifiedRecord(
        record=record,
        signer=attestation.signer,
        document=document,
        spec=signed["buildDefinition"]["externalParameters"]["spec"],
        toolchain=build.toolchain.name,
        version=build.toolchain.version,
        platform=definition.internal_parameters.platform,
        bound_to=dict(build.platform),
        facts=signed["enginefarm_facts"],
        host=predicate.facts.host,
        started_at=predicate.run_details.metadata.started_on,
        ended_at=predicate.run_details.metadata.finished_on,
    )
