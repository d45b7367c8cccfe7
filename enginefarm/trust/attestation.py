"""Attestations: an in-toto statement about one engine, signed in a DSSE envelope.

Layers, outside in, and the specification of each:
- envelope: DSSE v1 (https://github.com/secure-systems-lab/dsse), payload type `application/vnd.in-toto+json`, signed
  with Ed25519;
- statement: in-toto Statement v1; its one subject names the engine's key and its manifest's SHA-256;
- predicate: SLSA Provenance v1 by the farm that built the engine, read by `enginefarm.trust.provenance`; or SLSA
  Verification Summary v1 by a farm that imported it, read by `enginefarm.trust.verification_summary`.

A node that trusts a farm's public key can verify that this farm built exactly these bytes for exactly this key,
whatever mirror or disk the bytes came from. A signature does not help against somebody who can write the farm's own
catalogue: the farm signs what its catalogue says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from securesystemslib.exceptions import VerificationError

from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import Manifest
from enginefarm.trust.key_files import read_key_file

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
SUMMARY_TYPE: Literal["https://slsa.dev/verification_summary/v1"] = "https://slsa.dev/verification_summary/v1"
BUILD_TYPE = "urn:enginefarm:engine:v1"  # names the form of the predicate; another form needs another name

_EXPECTED = "expected an Ed25519 public key in PEM, as GET /v1/signing-keys gives it"

PredicateType = Literal["https://slsa.dev/provenance/v1", "https://slsa.dev/verification_summary/v1"]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Subject(BaseModel):
    """The engine as an in-toto ResourceDescriptor: `name` is its key, `digest` its manifest's SHA-256 in hex."""

    model_config = ConfigDict(frozen=True)

    name: Key
    digest: Annotated[dict[Literal["sha256"], Hex], Field(min_length=1)]


class Statement(BaseModel):
    """in-toto Statement v1 about exactly one engine."""

    # The specification's names (`_type`, `predicateType`) on the wire, Python's in the code.
    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[Subject]
    predicate_type: PredicateType = Field(default=PREDICATE_TYPE, alias="predicateType")
    predicate: dict[str, JsonValue]

    def payload(self) -> bytes:
        """Return the bytes to sign: JSON with sorted keys and no white space, so equal statements give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class VerifiedStatement:
    """A statement, and the id of the trusted key that signed it."""

    statement: Statement
    signer: str


class TrustedKeys:
    """Ed25519 public keys of farms that the caller trusts.

    One good signature by any of them is enough, so that a farm can rotate its key: trust the old and the new one
    until everything is signed with the new one.
    """

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self.pems = [pem(key) for key in keys]
        self._keys = [_verification_key(key) for key in keys]

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> TrustedKeys:
        """Read Ed25519 public keys in PEM, one per file.

        Raises:
            InvalidRequest: a file cannot be read, or holds no such key.
        """
        keys = []
        for path in paths:
            try:
                text = read_key_file(path)
            except OSError as error:
                raise InvalidRequest(f"trusted key {path} cannot be read ({error.strerror}): {_EXPECTED}") from error
            keys.append(_public_key(str(path), text))
        return cls(keys)

    @classmethod
    def of_pems(cls, pems: Sequence[str]) -> TrustedKeys:
        """Parse Ed25519 public keys in PEM.

        Raises:
            InvalidRequest: a text is no such key; the error names it by its position, from 1.
        """
        return cls([_public_key(f"trusted key {number}", pem.encode()) for number, pem in enumerate(pems, start=1)])

    @property
    def ids(self) -> list[str]:
        """The ids by which envelopes name the keys."""
        return [key.keyid for key in self._keys]

    def narrowed_to(self, pems: Sequence[str]) -> TrustedKeys:
        """Return those of these keys that `pems` has, too; all of them if `pems` is empty.

        Raises:
            InvalidRequest: a text is no such key, or none of them is trusted.
        """
        if not pems:
            return self
        named = set(TrustedKeys.of_pems(pems).ids)
        both = [pem for pem, identity in zip(self.pems, self.ids, strict=True) if identity in named]
        if not both:
            trusted = ", ".join(identity[:12] for identity in self.ids) or "none"
            raise InvalidRequest(
                f"trusted_keys names only {', '.join(sorted(identity[:12] for identity in named))}: this farm imports "
                f"what these keys signed: {trusted}; its operator adds a key to ENGINEFARM_IMPORT_TRUSTED_KEYS"
            )
        return TrustedKeys.of_pems(both)

    def verify(self, envelope: Mapping[str, Any], *, key: Key, manifest: Manifest) -> VerifiedStatement:
        """Verify a DSSE envelope with the provenance of the engine `key` with the files of `manifest`.

        Raises:
            IntegrityError: the envelope is malformed or no trusted key signed it; its payload is no provenance; or the
                statement is about another engine or other files.
        """
        engine = f"engine {key[:12]}"
        payload, signer = self.open(envelope, PAYLOAD_TYPE, what=engine)
        return VerifiedStatement(statement_about(payload, key=key, manifest=manifest), signer)

    def open(self, envelope: Mapping[str, Any], payload_type: str, *, what: str) -> tuple[bytes, str]:
        """Return the payload of a DSSE envelope, and the id of the trusted key that signed it.

        The signature is over DSSE's pre-authentication encoding, which has the payload's type: a document of another
        kind that the same key signed is refused. Nothing of the payload is parsed here.

        Args:
            what: names the signed thing in error texts.

        Raises:
            IntegrityError: the envelope is malformed, of another type, or no trusted key signed it.
        """
        from securesystemslib.dsse import Envelope

        try:
            signed = Envelope.from_dict(deepcopy(dict(envelope)))  # from_dict() empties the dictionary that it is given
            (signer,) = signed.verify(list(self._keys), threshold=1)
        except (KeyError, TypeError, ValueError, AttributeError, VerificationError) as error:
            # The envelope comes from outside: securesystemslib answers a malformed one with any of these errors.
            trusted = ", ".join(trusted_key.keyid[:12] for trusted_key in self._keys)
            raise IntegrityError(
                f"{what} has no good signature by a trusted key ({trusted}): do not use it, or trust the key of "
                "the farm that signed it"
            ) from error
        if signed.payload_type != payload_type:
            raise IntegrityError(f"{what}: what was signed is {signed.payload_type[:100]!r}, expected {payload_type!r}")
        payload: bytes = signed.payload
        return payload, signer


def statement_about(
    payload: bytes, *, key: Key, manifest: Manifest, predicate_type: PredicateType = PREDICATE_TYPE
) -> Statement:
    """Return the statement in `payload`, which must be about the engine `key` with the files of `manifest`.

    Without these checks a mirror could send the good statement of another engine.

    Raises:
        IntegrityError: it is no statement of this type, or about another engine or other files.
    """
    engine = f"engine {key[:12]}"
    try:
        statement = Statement.model_validate_json(payload)
    except ValidationError as error:
        raise IntegrityError(f"what was signed about {engine} is no statement about an engine") from error
    (subject,) = statement.subject
    if subject.name != key:
        raise IntegrityError(f"the signed statement that came with {engine} is about {subject.name[:12]}")
    if f"sha256:{subject.digest['sha256']}" != manifest.digest:
        raise IntegrityError(f"the files of {engine} are not those that its farm signed")
    # A farm signs both types about one engine: a verification summary must not pass for provenance.
    if statement.predicate_type != predicate_type:
        raise IntegrityError(
            f"what was signed about {engine} is of type {statement.predicate_type}, expected {predicate_type}"
        )
    return statement


def pem(key: Ed25519PublicKey) -> str:
    """Return `key` in PEM (SubjectPublicKeyInfo), the form in which farms publish it and nodes store it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id by which an envelope names the key that signed it: 64 hex digits."""
    return _verification_key(key).keyid


def _verification_key(key: Ed25519PublicKey) -> SSlibKey:
    # Here and in `open`, not above: securesystemslib.signer loads the SDK of each cloud that is installed, which takes
    # every command longer than all its other modules.
    from securesystemslib.signer import SSlibKey

    return SSlibKey.from_crypto(key)


def _public_key(name: str, pem_text: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem_text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"{name} is not a public key: {_EXPECTED}") from error
    # RSA and ECDSA keys are PEM, too, and no farm signs with them.
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(f"{name} holds another kind of key: {_EXPECTED}")
    return key
