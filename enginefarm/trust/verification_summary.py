"""Verification summaries: what an importing farm signs about an engine that another farm built.

The farm that built an engine signs SLSA provenance. A farm that imports it did not see the build, so it signs SLSA's
verification summary v1 instead: that it verified this provenance, and by whose key. A node that trusts the importing
farm verifies, in this order:

1. the summary's envelope: a trusted key signed it, and its subject is the engine's key and manifest;
2. its result is PASSED, for this engine's resource URI;
3. the digest of the provenance that came with it is among the attestations that the farm verified.

Everything in the provenance is then as good as signed by the importing farm, although the node has never seen the key
of the farm that built it.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import Manifest
from enginefarm.trust.attestation import (
    PAYLOAD_TYPE,
    SUMMARY_TYPE,
    Hex,
    Statement,
    Subject,
    TrustedKeys,
    statement_about,
)

# A key that the farm's setting names signed the attestation, and its documents hash to the engine's key. The key's id
# follows.
POLICY = "urn:enginefarm:import:v1:"
# SLSA's word for "the verifier did not evaluate the level of the build": the importing farm saw none of it.
_LEVELS = ("SLSA_BUILD_LEVEL_UNEVALUATED",)


class _Section(BaseModel):
    # Other verifiers may add fields, which do no harm.
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class _Verifier(_Section):
    id: str


class _Policy(_Section):
    uri: str


class _Attestation(_Section):
    uri: str | None = None
    digest: Annotated[dict[Literal["sha256"], Hex], Field(min_length=1)]


class _Summary(_Section):
    """SLSA verification summary v1."""

    verifier: _Verifier
    time_verified: AwareDatetime
    resource_uri: str
    policy: _Policy
    input_attestations: tuple[_Attestation, ...]
    verification_result: Annotated[Literal["PASSED", "FAILED"], BeforeValidator(str)]
    verified_levels: tuple[str, ...]
    slsa_version: str = "1.0"


@dataclass(frozen=True)
class Provenance:
    """A provenance statement that a trusted key stands for."""

    statement: Statement
    signer: str  # id of the trusted key that signed the provenance, or the summary of who verified it
    farm: str | None  # the builder's id, or the id of the farm that verified it; None in a statement without one


def attestation_digest(envelope: Mapping[str, Any]) -> Digest:
    """Return the digest by which a summary names an attestation: of the envelope as canonical JSON (RFC 8785)."""
    return of_bytes(rfc8785.dumps(dict(envelope)))


def summary_statement(
    *,
    key: Key,
    manifest: Digest,
    verifier: str,
    verified_at: datetime,
    signer: str,
    attestations: Sequence[Mapping[str, Any]],
) -> Statement:
    """Return the statement that the farm `verifier` verified `attestations`, which the key `signer` had signed."""
    inputs = []
    for attestation in attestations:
        sha256 = attestation_digest(attestation).removeprefix("sha256:")
        inputs.append(_Attestation(digest={"sha256": sha256}))
    summary = _Summary(
        verifier=_Verifier(id=verifier),
        time_verified=verified_at,
        resource_uri=resource_uri(key),
        policy=_Policy(uri=POLICY + signer),
        input_attestations=tuple(inputs),
        verification_result="PASSED",
        verified_levels=_LEVELS,
    )
    return Statement(
        subject=(Subject(name=key, digest={"sha256": manifest.removeprefix("sha256:")}),),
        predicate_type=SUMMARY_TYPE,
        predicate=summary.model_dump(mode="json", exclude_none=True),
    )


def resource_uri(key: Key) -> str:
    """Return the URI by which a summary names an engine."""
    return f"urn:enginefarm:engine:{key}"


def verify_provenance(
    trusted: TrustedKeys,
    envelope: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    *,
    key: Key,
    manifest: Manifest,
) -> Provenance:
    """Return the provenance in `envelope` if a trusted key signed it, or signed the `summary` of its verification.

    Raises:
        IntegrityError: neither; or what was signed is about another engine, other files or another provenance.
    """
    try:
        verified = trusted.verify(envelope, key=key, manifest=manifest)
    except IntegrityError:
        if summary is None:
            raise
    else:
        builder: str | None = None
        match verified.statement.predicate:
            case {"runDetails": {"builder": {"id": str(stated)}}}:
                builder = stated
        return Provenance(verified.statement, verified.signer, builder)
    signer, verifier = verify_summary(trusted, summary, envelope, key=key, manifest=manifest)
    # Not signed by a trusted key itself: its digest is in what a trusted key signed.
    try:
        payload = b64decode(str(envelope["payload"]), validate=True)
    except (KeyError, binascii.Error) as error:
        raise IntegrityError(f"engine {key[:12]}: the attestation has no payload") from error
    return Provenance(statement_about(payload, key=key, manifest=manifest), signer, verifier)


def verify_summary(
    trusted: TrustedKeys,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    key: Key,
    manifest: Manifest,
) -> tuple[str, str]:
    """Verify that a trusted key signed `summary`, and that it is about this engine and this provenance envelope.

    Returns (id of the key that signed it, id of the farm that verified the engine).

    Raises:
        IntegrityError: a check at the top of this module failed.
    """
    engine = f"engine {key[:12]}"
    payload, signer = trusted.open(summary, PAYLOAD_TYPE, what=engine)
    statement = statement_about(payload, key=key, manifest=manifest, predicate_type=SUMMARY_TYPE)
    try:
        stated = _Summary.model_validate(statement.predicate)
        digest = attestation_digest(provenance).removeprefix("sha256:")
    except (ValidationError, rfc8785.CanonicalizationError, RecursionError) as error:
        raise IntegrityError(f"{engine}: its verification summary is malformed") from error
    if stated.verification_result != "PASSED" or stated.resource_uri != resource_uri(key):
        raise IntegrityError(f"{engine}: its verification summary does not say that it passed")
    if digest not in [attestation.digest["sha256"] for attestation in stated.input_attestations]:
        raise IntegrityError(
            f"{engine}: its verification summary is about another attestation than the one it came with"
        )
    return signer, stated.verifier.id
