"""Attestations of engines, and the public key that checks them."""

from __future__ import annotations

from typing import Any

from api.auth import Reader
from api.control import Control
from api.openapi import refuses
from api.routing import bounded_router
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.trust.attestation import key_id, pem
from enginefarm.wire.bodies import SigningKeyList, VerificationKey
from models.catalogue.rows import EngineRow
from models.lifecycle.imports import original_envelope
from models.queries.engines import get_engine
from models.queries.provenance import statement_of

router = bounded_router(tags=["engines"])


@router.get("/v1/engines/{key:key}/attestation", responses=refuses(410))
def attestation(key: Key, control: Control, _: Reader) -> dict[str, Any]:
    """An in-toto statement (SLSA provenance v1) in a signed DSSE envelope.

    The attestation of an imported engine is the original one; this farm adds its signature to the other farm's.
    """
    signing_key = control.signing_key
    with control.database.snapshot() as session:
        # Raises NotFound for a withdrawn engine: a farm does not attest what it no longer serves.
        get_engine(session, key)
        original = original_envelope(session, session.get_one(EngineRow, key))
        if original is None:
            if signing_key is None:
                raise NotFound(
                    "this farm does not sign: its operator makes a key with `python -m api.signing create FILE` "
                    "and names it in ENGINEFARM_SIGNING_KEY"
                )
            return signing_key.sign(statement_of(session, key))
    if signing_key is None:
        # A farm without a key still passes on the signature of the farm that built the engine.
        return original
    return signing_key.countersign(original)


@router.get("/v1/signing-keys")
def signing_keys(control: Control) -> SigningKeyList:
    """The public key that checks attestations; an empty list if this farm does not sign. Needs no API key."""
    signing_key = control.signing_key
    if signing_key is None:
        return SigningKeyList(items=[])
    public = signing_key.public
    return SigningKeyList(items=[VerificationKey(id=key_id(public), public_key=pem(public))])
