"""What the farm says of an engine, signed: an in-toto statement with SLSA provenance in a DSSE envelope.

Whoever trusts the farm's public key can tell, wherever the engine's bytes came from, that this farm built
exactly these bytes for exactly this key. It protects the way from the farm to the node, mirrors and removable
media included; it does not protect from somebody who can write the farm's own catalogue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from enginefarm.contract.errors import IntegrityError, InvalidRequest
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import Manifest

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:enginefarm:engine:v1"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Subject(BaseModel):
    """The engine: named by its key, identified by its manifest's digest."""

    model_config = ConfigDict(frozen=True)

    name: Key
    digest: dict[Literal["sha256"], Hex]


class Statement(BaseModel):
    """in-toto Statement v1 with SLSA Provenance v1 as its predicate."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True)

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[Subject]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(default=PREDICATE_TYPE, alias="predicateType")
    predicate: dict[str, JsonValue]

    def payload(self) -> bytes:
        """The bytes that are signed; the same statement always gives the same."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Verified:
    statement: Statement
    signer: str  # the id of the trusted key that signed it


class TrustedKeys:
    """Public keys that are taken as a farm's. One good signature by any of them is enough, so keys can be rotated."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self.pems = [pem(key) for key in keys]
        self._keys = [SSlibKey.from_crypto(key) for key in keys]

    @classmethod
    def of_files(cls, paths: Sequence[Path]) -> TrustedKeys:
        """Ed25519 public keys in PEM, one a file.

        Raises:
            InvalidRequest: a file is no such key.
        """
        return cls([_public_key(str(path), _read(path)) for path in paths])

    @classmethod
    def of_pems(cls, pems: Sequence[str]) -> TrustedKeys:
        """Raises InvalidRequest: one is no Ed25519 public key in PEM."""
        return cls([_public_key(f"trusted key {number}", pem.encode()) for number, pem in enumerate(pems, start=1)])

    def verify(self, envelope: Mapping[str, Any], *, key: Key, manifest: Manifest) -> Verified:
        """The statement in `envelope`, if one of these keys signed it and it is about this engine.

        Raises:
            IntegrityError: saying which of the two it is not.
        """
        short = key[:12]
        try:
            opened = Envelope.from_dict(deepcopy(dict(envelope)))  # it takes apart what it is given
            (signer,) = opened.verify(list(self._keys), threshold=1)
            statement = Statement.model_validate_json(opened.payload)
        except (KeyError, TypeError, ValueError, AttributeError, VerificationError, ValidationError) as error:
            known = ", ".join(trusted.keyid[:12] for trusted in self._keys)
            raise IntegrityError(
                f"engine {short} has no good signature by a trusted key ({known}): do not use it, or trust the key of "
                "the farm that signed it"
            ) from error
        (subject,) = statement.subject
        if opened.payload_type != PAYLOAD_TYPE or subject.name != key:
            raise IntegrityError(f"the signed statement that came with engine {short} is about {subject.name[:12]}")
        if f"sha256:{subject.digest['sha256']}" != manifest.digest:
            raise IntegrityError(f"the files of engine {short} are not those that its farm signed")
        return Verified(statement, signer)


def pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: Ed25519PublicKey) -> str:
    """How an envelope names the key that signed it: 64 hex digits."""
    return SSlibKey.from_crypto(key).keyid


_EXPECTED = "expected an Ed25519 public key in PEM, as GET /v1/signing-keys gives it"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"trusted key {path} cannot be read ({error.strerror}): {_EXPECTED}") from error


def _public_key(name: str, data: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(f"{name} is not a public key: {_EXPECTED}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidRequest(f"{name} holds another kind of key: {_EXPECTED}")
    return key
