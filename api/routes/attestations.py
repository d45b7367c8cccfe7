"""What the farm signs: attestations of engines, and the public key to check them with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.auth import Reader
from api.control import Control, ControlPlane
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.trust.attestation import key_id, pem
from enginefarm.wire.bodies import SigningKeyList, VerificationKey
from models.catalogue.rows import EngineRow
from models.lifecycle.imports import original_envelope
from models.queries.engines import get_engine
from models.queries.provenance import statement_of
from models.security.signing_key import SigningKey

router = APIRouter(tags=["engines"])


@router.get("/v1/engines/{key}/attestation")
def attestation(key: Key, control: Control, _: Reader) -> dict[str, Any]:
    """An in-toto statement (SLSA provenance v1) in a signed DSSE envelope.

    Of an engine that was imported, it is the original, with this farm's signature beside that of the other farm.
    """
    with control.database.snapshot() as session:
        get_engine(session, key)  # an engine that is not served is not vouched for
        original = original_envelope(session, session.get_one(EngineRow, key))
        statement = statement_of(session, key) if original is None and control.signing_key else None
    if original is not None:
        return control.signing_key.countersign(original) if control.signing_key else original
    signing_key = _signing_key(control)
    assert statement is not None, "it was made because there is a key"
    return signing_key.sign(statement)


@router.get("/v1/signing-keys")
def signing_keys(control: Control) -> SigningKeyList:
    """The public key that checks attestations; nothing if this farm does not sign. Needs no API key."""
    held = control.signing_key
    keys = [VerificationKey(id=key_id(held.public), public_key=pem(held.public))] if held else []
    return SigningKeyList(items=keys)


def _signing_key(control: ControlPlane) -> SigningKey:
    if control.signing_key is None:
        raise NotFound(
            "this farm does not sign: its operator makes a key with `python -m api.signing create FILE` "
            "and names it in ENGINEFARM_SIGNING_KEY"
        )
    return control.signing_key
