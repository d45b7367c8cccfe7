"""Import an engine of another farm: verify its signed record, then publish it in one transaction."""

from __future__ import annotations

from api.control import ControlPlane
from enginefarm.contract.errors import Conflict, IntegrityError, InvalidRequest
from enginefarm.trust.provenance import verify_record
from enginefarm.wire.engine_record import EngineRecord, ImportRequest, ImportResult
from models.lifecycle.blobs import NotStored, require_stored
from models.lifecycle.imports import publish_import
from models.queries.engines import find_engine


def take_in(control: ControlPlane, request: ImportRequest, *, imported_by: str | None) -> ImportResult:
    """Publish the engine of the request, unless the farm serves one under its key already.

    The farm's own setting says whose engines it imports. The keys in the request can only leave some of them out:
    otherwise an administrator's API key would be worth as much as the signing key.

    Raises:
        InvalidRequest: no key that this farm imports from signed the record, or the record differs from what was
            signed.
        Conflict: some of its blobs are not in the store, or are damaged there.
    """
    if not control.keys.imports.ids:
        raise InvalidRequest(
            "this farm imports nothing: its operator names the public keys of farms that it imports from in "
            "ENGINEFARM_IMPORT_TRUSTED_KEYS"
        )
    try:
        verified = verify_record(request.engine, control.keys.imports.narrowed_to(request.trusted_keys))
    except IntegrityError as error:
        # The caller sent the record: this is no damage in the farm's own store.
        raise InvalidRequest(error.detail) from error
    record = verified.record

    # Most records of a bundle that is imported again are served already: they need no lock.
    existing = _served_engine(control, record)
    if existing is not None:
        return existing
    try:
        with control.database.write() as session:
            published = publish_import(session, verified, imported_by=imported_by)
            # After the rows are locked, before the commit: garbage collection can delete no blob in between.
            require_stored(control.store, record.sizes)
    except (NotStored, IntegrityError) as error:
        raise Conflict(f"engine {record.key[:12]}: {error.detail}; send its blobs again, then import it") from error

    imported = _served_engine(control, record)
    if imported is None:
        raise Conflict(f"engine {record.key[:12]} was withdrawn while it was imported: import it again")
    if not published:
        # A worker or another import published the key first, so the outcome says which engine is served.
        return imported
    return imported.model_copy(update={"outcome": "imported"})


def _served_engine(control: ControlPlane, record: EngineRecord) -> ImportResult | None:
    """The engine that is served under the record's key, with its outcome; None if there is none."""
    with control.database.read() as session:
        engine = find_engine(session, record.key)
    if engine is None:
        return None
    if engine.manifest == record.manifest.digest:
        return ImportResult(outcome="there", engine=engine)
    # Builds are not reproducible: this farm's own build of the key has other bytes, and stays.
    return ImportResult(outcome="kept", engine=engine)
