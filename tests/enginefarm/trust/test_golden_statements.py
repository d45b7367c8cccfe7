"""What farms signed stays verifiable, and its form does not change by accident."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from enginefarm.contract.errors import IntegrityError
from enginefarm.trust.provenance import verify_record
from enginefarm.trust.revocations import verify_list
from enginefarm.trust.verification_summary import summary_statement
from tests.enginefarm.trust.golden import GOLDEN, payload, record, trusted


@pytest.mark.parametrize("name", ["built by 0.1", "built", "imported"])
def test_a_record_that_a_farm_signed_is_verified(name: str) -> None:
    verified = verify_record(record(name), trusted(name))
    assert (verified.spec["model"], verified.toolchain) == ("file:/models/tiny", "aoti")
    assert verified.bound_to == {"arch": "x86_64", "cpu_isa": "x86-64-v3", "os": "linux"}


def test_a_summary_has_the_same_bytes_as_ever() -> None:
    engine = record("imported")
    envelope: Any = engine.verification_summary
    predicate = json.loads(payload(envelope))["predicate"]
    statement = summary_statement(
        key=engine.key,
        manifest=engine.manifest.digest,
        verifier="https://importer.example",
        verified_at=datetime.fromisoformat(predicate["timeVerified"]),
        signer=trusted("built").ids[0],
        attestations=[engine.attestation],
    )
    assert statement.payload() == payload(envelope)


def test_a_list_of_recalled_engines_has_the_same_bytes_as_ever() -> None:
    envelope = GOLDEN["revocations"]["envelope"]
    revocations = verify_list(trusted("revocations"), envelope)
    assert [entry.key for entry in revocations.revoked] == [record("imported").key]
    assert revocations.payload() == payload(envelope)


def test_an_importer_is_no_builder() -> None:
    """A node that trusts the importing farm alone needs its summary; with another engine's summary it is refused."""
    imported = record("imported")
    alone = imported.model_copy(update={"verification_summary": None})
    with pytest.raises(IntegrityError, match="no good signature"):
        verify_record(alone, trusted("imported"))

    another = imported.model_copy(update={"attestation": record("built by 0.1").attestation})
    with pytest.raises(IntegrityError, match="about another attestation"):
        verify_record(another, trusted("imported"))


def test_a_summary_does_not_pass_for_provenance_nor_a_list_for_a_statement() -> None:
    imported = record("imported")
    summary: Any = imported.verification_summary
    as_provenance = imported.model_copy(update={"attestation": summary, "verification_summary": None})
    with pytest.raises(IntegrityError, match=r"is of type https://slsa.dev/verification_summary/v1"):
        verify_record(as_provenance, trusted("imported"))

    a_list = imported.model_copy(update={"attestation": GOLDEN["revocations"]["envelope"]})
    with pytest.raises(IntegrityError, match=r"what was signed is 'application/vnd\.enginefarm.revocations"):
        verify_record(a_list.model_copy(update={"verification_summary": None}), trusted("revocations"))
    with pytest.raises(IntegrityError, match=r"what was signed is 'application/vnd\.in-toto"):
        verify_list(trusted("imported"), summary)
