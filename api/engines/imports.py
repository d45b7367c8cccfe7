"""From a record of another farm to an engine that is served: verified, then one transaction."""

from __future__ import annotations

from api.control import ControlPlane
from enginefarm.contract.errors import Conflict, IntegrityError, InvalidRequest
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.trust.provenance import VerifiedRecord, verify_record
from enginefarm.wire.engine_record import EngineRecord, ImportRequest, ImportResult
from models.lifecycle.blobs import NotStored, require_stored
from models.lifecycle.imports import publish_import
from models.queries.engines import find_engine


def take_in(control: ControlPlane, arrival: ImportRequest, *, imported_by: str | None) -> ImportResult:
    """
    Raises:
        InvalidRequest: no trusted key signed it, or it is not what was signed.
        Conflict: some of its bytes are not in the store, or are damaged there.
    """
    came = _vouched(arrival)
    if found := _there(control, came.record):
        return found
    try:
        with control.database.write() as session:
            published = publish_import(session, came, imported_by=imported_by)
            require_stored(control.store, came.record.sizes)
    except (NotStored, IntegrityError) as error:
        raise Conflict(
            f"engine {came.record.key[:12]}: {error.detail}; send its blobs again, then import it"
        ) from error
    now_there = _there(control, came.record)
    if now_there is None:
        raise Conflict(f"engine {came.record.key[:12]} was taken out in the moment in which it came: import it again")
    return now_there.model_copy(update={"outcome": "imported"}) if published else now_there


def _vouched(arrival: ImportRequest) -> VerifiedRecord:
    try:
        return verify_record(arrival.engine, TrustedKeys.of_pems(arrival.trusted_keys))
    except IntegrityError as error:
        raise InvalidRequest(error.detail) from error


def _there(control: ControlPlane, record: EngineRecord) -> ImportResult | None:
    """The engine under this key as it is served now."""
    with control.database.read() as session:
        engine = find_engine(session, record.key)
    if engine is None:
        return None
    return ImportResult(outcome="there" if engine.manifest == record.manifest.digest else "kept", engine=engine)
