"""Import an engine of another farm: an attempt by a worker that stands for that farm's signing key.

It claims and publishes in one transaction. So all rules for engines that were built here apply to it: the moves, the
fence, and recalls by that worker's name. Nothing here commits.
"""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import Conflict
from enginefarm.contract.host import Host
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import ImportedWork, ToolchainVersion
from enginefarm.trust.provenance import VerifiedRecord
from models.catalogue.rows import ActionRow, AttemptRow, EngineRow, ImportRow, WorkerRow
from models.catalogue.states import ActionState, WorkerState
from models.catalogue.upsert import insert_new
from models.catalogue.visibility import engine_exists
from models.lifecycle.action_rows import insert_or_lock
from models.lifecycle.leases import claim_action
from models.lifecycle.publication import publish_engine, record_manifest
from models.lifecycle.revocations import lift
from models.lifecycle.transitions import cancel_if_unneeded, queue_at_once
from models.queue.names import build_queue, convert_queue

_UNKNOWN_HOST = Host(name="of another farm", cpu="unknown", cores=0, memory_gib=0)


def publish_import(session: Session, imported: VerifiedRecord, *, imported_by: str | None) -> bool:
    """Publish the engine of another farm, and end every build that waits for it.

    A worker that builds the engine now is fenced. Before it commits, the caller asks `require_stored` for its bytes.

    Returns False if the engine exists already; then nothing changed.

    Raises:
        Conflict: what the signing key signed was recalled.
        IntegrityError: one of the engine's blobs is damaged in the store.
    """
    key = imported.record.key
    manifest = imported.record.manifest
    _require_not_recalled(session, imported.signer)
    record_manifest(session, manifest)  # blobs first: the lock order
    build = _lock_actions(session, imported)
    if engine_exists(session, key):  # published while we waited for the lock
        return False
    queue_at_once(session, build)
    worker_id = _insert_worker(session, imported)
    # No heartbeat renews the lease: the same transaction publishes.
    claim = claim_action(session, key, worker_id, lease_seconds=0)
    assert claim is not None, "the action is queued and due, and we hold its lock"
    engine = {
        "model": imported.spec["model"],
        "toolchain": imported.toolchain,
        "version": imported.version,
        "platform": imported.platform.model_dump(),
        "bound_to": imported.bound_to,
        "driver_binding": imported.driver_binding,
        "spec": imported.spec,
        "provenance": imported.facts,
    }
    # As a worker does: so the fence and the lock order are those of an engine that was built here.
    publish_engine(session, claim, manifest, engine=engine, steps={})
    session.add(
        ImportRow(action_key=key, attempt=claim.attempt, envelope=imported.record.attestation,
                  summary=imported.record.verification_summary, signer=imported.signer, imported_by=imported_by)
    )  # fmt: skip
    lift(session, key, manifest.digest)
    # The attempt lasts as long as the other farm's: estimates then know how long a build here would take.
    attempt = (AttemptRow.action_key == key, AttemptRow.number == claim.attempt)
    times = {"started_at": imported.started_at, "ended_at": imported.ended_at}
    session.execute(update(AttemptRow).where(*attempt).values(**times))
    # A conversion that only this engine waited for has no purpose any more.
    cancel_if_unneeded(session, imported.document["convert"])
    return True


def original_envelope(session: Session, engine: EngineRow) -> dict[str, Any] | None:
    """The signed statement that the engine was imported with; None if this farm built it."""
    row = session.get(ImportRow, (engine.key, engine.attempt))
    return row.envelope if row is not None else None


def import_worker_name(signer: str) -> str:
    """The name of the worker that stands for the farm with this key: a recall by that name withdraws its engines."""
    return f"import-{signer[:12]}"


def _lock_actions(session: Session, imported: VerifiedRecord) -> ActionRow:
    """Insert both actions if they are new, and lock them: the convert action first, as the lock order says.

    Returns the build action. New ones are cancelled, because no build waits for them.
    """
    work = ImportedWork(job=ToolchainVersion(toolchain=imported.toolchain, version=imported.version))
    convert_key = imported.document["convert"]
    insert_or_lock(
        session,
        convert_key,
        stage=Stage.CONVERT,
        queue=convert_queue(imported.toolchain, imported.version),
        document=imported.record.checkpoint_document,
        work=work,
        depends_on=None,
        state=ActionState.CANCELLED,
    )
    existing = insert_or_lock(
        session,
        imported.record.key,
        stage=Stage.BUILD,
        queue=build_queue(imported.toolchain, imported.version, imported.platform, imported.bound_to),
        document=imported.document,
        work=work,
        depends_on=convert_key,
        state=ActionState.CANCELLED,
    )
    return existing or session.get_one(ActionRow, imported.record.key)


def _insert_worker(session: Session, imported: VerifiedRecord) -> str:
    """Record the other farm's machine as a worker, if it is new; returns its id. It is gone, and so takes no work."""
    name = import_worker_name(imported.signer)
    platform = imported.platform.model_dump()
    host = (imported.host or _UNKNOWN_HOST).model_dump()
    # Derived, so that one machine of one farm is the same worker in all imports.
    worker_id = hashlib.sha256(rfc8785.dumps([imported.signer, platform, host])).hexdigest()[:32]
    values = {
        "id": worker_id,
        "name": name,
        "state": str(WorkerState.GONE),
        "platform": platform,
        "host": host,
        "capabilities": [],
        "queues": [],
    }
    insert_new(session, WorkerRow, values)
    return worker_id


def _require_not_recalled(session: Session, signer: str) -> None:
    name = import_worker_name(signer)
    # A recall quarantines the worker that stands for the key; a release of that worker allows its engines again.
    recalled = select(WorkerRow.quarantine_reason).where(WorkerRow.name == name, WorkerRow.quarantined_at.is_not(None))
    reason = session.execute(recalled.limit(1)).scalar_one_or_none()
    if reason is not None:
        raise Conflict(
            f"what key {signer[:12]} signed was recalled ({reason}): `enginefarm workers release {name}` allows it"
        )
