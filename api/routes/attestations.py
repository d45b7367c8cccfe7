"""What the farm signs: attestations of engines, the list of recalled ones, and the public keys that check them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from fastapi import Response

from api.auth import Reader
from api.control import Control, ControlPlane
from api.http.openapi import refuses
from api.http.routing import bounded_router
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.trust.attestation import key_id, pem
from enginefarm.wire.bodies import SigningKeyList, VerificationKey
from enginefarm.wire.revocations import RevocationList
from models.catalogue.rows import EngineRow
from models.lifecycle.imports import original_envelope
from models.lifecycle.revocations import revocations
from models.queries.engines import get_engine
from models.queries.provenance import statement_of, summary_of
from models.security.signing_key import SigningKey

router = bounded_router(tags=["engines"])

_ENVELOPE: dict[int | str, dict[str, Any]] = {
    200: {"description": "a DSSE envelope", "content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get("/v1/engines/{key:key}/attestation", responses=_ENVELOPE | refuses(410))
def attestation(key: Key, control: Control, _: Reader) -> Response:
    """An in-toto statement (SLSA provenance v1) in a DSSE envelope, signed by the farm that built the engine.

    The attestation of an imported engine is the original one; what this farm says about it is its verification summary.
    """
    with control.database.snapshot() as session:
        # Raises NotFound for a withdrawn engine: a farm does not attest what it no longer serves.
        get_engine(session, key)
        envelope = original_envelope(session, session.get_one(EngineRow, key))
        if envelope is None:
            signing_key = _signing_key(control)
            envelope = signing_key.sign(statement_of(session, key, builder=control.identity))
    return _canonical(envelope)


@router.get("/v1/engines/{key:key}/verification-summary", responses=_ENVELOPE | refuses(410))
def verification_summary(key: Key, control: Control, _: Reader) -> Response:
    """An in-toto statement (SLSA verification summary v1) in a signed DSSE envelope.

    It says that this farm verified the attestation of an engine that it imported. Its `inputAttestations` have the
    SHA-256 of the bytes that `/v1/engines/{key}/attestation` answers. 404 for an engine that this farm built.
    """
    with control.database.snapshot() as session:
        get_engine(session, key)
        statement = summary_of(session, key, verifier=control.identity)
    if statement is None:
        raise NotFound(f"this farm built engine {key[:12]} itself: GET /v1/engines/{key}/attestation")
    return _canonical(_signing_key(control).sign(statement))


@router.get("/v1/revocations", responses=_ENVELOPE)
def revocation_list(control: Control, _: Reader) -> Response:
    """The recalled engines, as a list in a DSSE envelope that the farm signs anew at each request.

    Nodes that insist on it refuse an engine that is in it, an old list, and one with a lower sequence number than the
    last.
    """
    signing_key = _signing_key(control)
    with control.database.snapshot() as session:
        sequence, entries = revocations(session)
    issued_at = datetime.now(UTC)
    document = RevocationList(
        farm=control.identity,
        sequence=sequence,
        issued_at=issued_at,
        expires_at=issued_at + timedelta(hours=control.settings.revocations_hours),
        revoked=tuple(entries),
    )
    return _canonical(signing_key.sign_revocations(document))


@router.get("/v1/signing-keys")
def signing_keys(control: Control) -> SigningKeyList:
    """The public keys that check what the farm signed: the current one, then older ones. Needs no API key.

    An empty list if this farm does not sign.
    """
    items = []
    signing_key = control.keys.signing
    if signing_key is not None:
        items.append(VerificationKey(id=key_id(signing_key.public), public_key=pem(signing_key.public)))
    for identity, public_key in zip(control.keys.old.ids, control.keys.old.pems, strict=True):
        items.append(VerificationKey(id=identity, public_key=public_key, current=False))
    return SigningKeyList(items=items)


def _signing_key(control: ControlPlane) -> SigningKey:
    signing_key = control.keys.signing
    if signing_key is None:
        raise NotFound(
            "this farm does not sign: its operator makes a key with `python -m api.signing create FILE` "
            "and names it in ENGINEFARM_SIGNING_KEY"
        )
    return signing_key


def _canonical(envelope: dict[str, Any]) -> Response:
    # The bytes whose SHA-256 names an attestation in a verification summary, so that `sha256sum` of a download is it.
    return Response(rfc8785.dumps(envelope), media_type="application/json")
