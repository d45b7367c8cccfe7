"""What a farm signs is verified by others' tools: in-toto's own types, securesystemslib, and the bare specification.

The envelope, the payload type, the key's form and the subject are those that `cosign verify-blob-attestation --key`
reads; the program itself is no Python package, so it does not run here (docs/operations.md has its command).
"""

from __future__ import annotations

import base64
import hashlib
from copy import deepcopy
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey

from tests.enginefarm.trust.golden import GOLDEN, payload, record

ENVELOPES: dict[str, tuple[dict[str, Any], str]] = {
    "provenance": (dict(record("built").attestation), GOLDEN["built"]["public_key"]),
    "provenance of 0.1": (dict(record("built by 0.1").attestation), GOLDEN["built by 0.1"]["public_key"]),
    "summary": (dict(record("imported").verification_summary or {}), GOLDEN["imported"]["public_key"]),
}


def public_key(pem: str) -> Ed25519PublicKey:
    key = load_pem_public_key(pem.encode())
    assert isinstance(key, Ed25519PublicKey)
    return key


@pytest.mark.parametrize("name", ENVELOPES)
def test_securesystemslib_verifies_the_envelope(name: str) -> None:
    envelope, pem = ENVELOPES[name]
    key = SSlibKey.from_crypto(public_key(pem))
    assert list(Envelope.from_dict(deepcopy(envelope)).verify([key], threshold=1)) == [key.keyid]


@pytest.mark.parametrize("name", ENVELOPES)
def test_the_signature_is_over_the_encoding_of_the_dsse_specification(name: str) -> None:
    """Written from the specification, without any library of envelopes: this is what cosign computes, too."""
    envelope, pem = ENVELOPES[name]
    kind, body = envelope["payloadType"].encode(), payload(envelope)
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
    (signature,) = envelope["signatures"]  # cosign reads the first signature only
    assert kind == b"application/vnd.in-toto+json"
    public_key(pem).verify(base64.b64decode(signature["sig"]), encoded)
    with pytest.raises(InvalidSignature):
        public_key(pem).verify(base64.b64decode(signature["sig"]), encoded + b" ")


@pytest.mark.parametrize("name", ENVELOPES)
def test_in_toto_reads_the_statement(name: str) -> None:
    message = json_format.Parse(payload(ENVELOPES[name][0]), StatementMessage())
    statement = Statement.copy_from_pb(message)
    statement.validate()
    (subject,) = statement.pb.subject
    # What cosign compares with the file that it is given: the canonical manifest.
    engine = record("built by 0.1" if "0.1" in name else "built")
    assert subject.digest["sha256"] == hashlib.sha256(engine.manifest.canonical()).hexdigest()


def test_in_toto_reads_the_provenance() -> None:
    message = json_format.Parse(payload(ENVELOPES["provenance"][0]), StatementMessage())
    predicate = json_format.MessageToDict(message.predicate)
    del predicate["enginefarm_facts"]  # an extension field: the specification allows it, the message type has none
    provenance = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    definition, run = provenance.build_definition, provenance.run_details
    assert message.predicate_type == "https://slsa.dev/provenance/v1"
    assert definition.build_type == "urn:enginefarm:engine:v1"
    assert definition.internal_parameters["bound_to"]["cpu_isa"] == "x86-64-v3"
    digests = {dependency.name: dict(dependency.digest) for dependency in definition.resolved_dependencies}
    assert digests["model/tokenizer.json"] == {"sha256": hashlib.sha256(b"{}").hexdigest()}
    assert run.builder.id == "https://farm.example"
    assert run.metadata.invocation_id == f"{record('built').key}/1"
    assert run.metadata.started_on.seconds <= run.metadata.finished_on.seconds


def test_in_toto_reads_the_verification_summary() -> None:
    message = json_format.Parse(payload(ENVELOPES["summary"][0]), StatementMessage())
    predicate = json_format.MessageToDict(message.predicate)
    # A list, says the specification; the message type of 0.9.3 has one string.
    assert predicate.pop("verifiedLevels") == ["SLSA_BUILD_LEVEL_UNEVALUATED"]
    summary = json_format.ParseDict(predicate, vsa_pb2.VerificationSummary())
    assert message.predicate_type == "https://slsa.dev/verification_summary/v1"
    assert (summary.verifier.id, summary.verification_result) == ("https://importer.example", "PASSED")
    assert summary.resource_uri.endswith(record("imported").key)
    assert summary.time_verified.seconds > 0
