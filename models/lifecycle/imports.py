"""An engine of another farm enters the catalogue: as an attempt, the work of a worker that stands for that farm's key.

It claims and publishes in one transaction, so all that is true of what was built here is true of it: the moves,
the fence, recalls by that worker's name. Nothing here commits.
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
from models.catalogue.states import ActionState, Outcome, WorkerState
from models.catalogue.upsert import insert_new
from models.catalogue.visibility import engine_exists
from models.lifecycle.leases import claim_action
from models.lifecycle.publication import publish_engine, record_manifest
from models.lifecycle.submission import insert_action
from models.lifecycle.transitions import cancel_if_unneeded, end_attempt, lock_action, move
from models.queue.names import build_queue, convert_queue

_UNKNOWN_HOST = Host(name="of another farm", cpu="unknown", cores=0, memory_gib=0)


def publish_import(session: Session, came: VerifiedRecord, *, imported_by: str | None) -> bool:
    """Make the engine visible, and end every build that waits for it. False: there is one already; nothing changed.

    Whoever builds it right now is fenced. Before it commits, the caller asks `require_stored` for its bytes.

    Raises:
        Conflict: what this key signed was recalled.
        IntegrityError: one of its blobs was found damaged in the store.
    """
    manifest, key = came.record.manifest, came.record.key
    _require_not_recalled(session, came.signer)
    record_manifest(session, manifest)
    build = _held(session, came)
    if engine_exists(session, key):  # published while we waited for the lock
        return False
    _free(session, build)
    worker = _worker(session, came)
    held = claim_action(session, key, worker, lease_seconds=0)
    assert held is not None, "it is queued, held by us, and due"
    publish_engine(session, held, manifest, engine=_columns(came), steps={})
    session.add(
        ImportRow(action_key=key, attempt=held.attempt, envelope=came.record.attestation, signer=came.signer,
                  imported_by=imported_by)
    )  # fmt: skip
    _say_when(session, came, held.attempt)
    cancel_if_unneeded(session, came.document["convert"])
    return True


def original_envelope(session: Session, engine: EngineRow) -> dict[str, Any] | None:
    """The signed statement that the engine came with; None if it was built here."""
    row = session.get(ImportRow, (engine.key, engine.attempt))
    return row.envelope if row is not None else None


def import_worker_name(signer: str) -> str:
    """Of the worker that stands for all that this key signed."""
    return f"import-{signer[:12]}"


def _held(session: Session, came: VerifiedRecord) -> ActionRow:
    """Both actions, made if they were not there, and held: the convert first, as the lock order says."""
    work = ImportedWork(job=ToolchainVersion(toolchain=came.toolchain, version=came.version))
    # Nobody asked for them here, and nobody waits.
    convert_key = came.document["convert"]
    insert_action(
        session,
        convert_key,
        stage=Stage.CONVERT,
        queue=convert_queue(came.toolchain, came.version, on_gpu=False),
        document=came.record.checkpoint_document,
        work=work,
        depends_on=None,
        state=ActionState.CANCELLED,
    )
    lock_action(session, convert_key)
    insert_action(
        session,
        came.record.key,
        stage=Stage.BUILD,
        queue=build_queue(came.toolchain, came.version, came.platform, came.bound_to),
        document=came.document,
        work=work,
        depends_on=convert_key,
        state=ActionState.CANCELLED,
    )
    row = lock_action(session, came.record.key)
    assert row is not None, "just inserted by us or by somebody else, and never deleted"
    return row


def _free(session: Session, build: ActionRow) -> None:
    """Queue it, to be claimed at once: a worker that has it is fenced, and kills its programs at the next heartbeat."""
    if build.state == ActionState.RUNNING:
        end_attempt(session, build.key, build.attempt, Outcome.CANCELLED)
    if build.state != ActionState.QUEUED:
        move(session, build.key, ActionState.QUEUED, failure=None)
    at_once = {"not_before": None, "avoid_worker": None, "avoid_until": None}
    session.execute(update(ActionRow).where(ActionRow.key == build.key).values(**at_once))


def _worker(session: Session, came: VerifiedRecord) -> str:
    """The worker that stands for the machine of the other farm; never there, so that nothing is sent to it."""
    name, platform = import_worker_name(came.signer), came.platform.model_dump()
    host = (came.host or _UNKNOWN_HOST).model_dump()
    worker_id = hashlib.sha256(rfc8785.dumps([came.signer, platform, host])).hexdigest()[:32]
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
    recalled = select(WorkerRow.quarantine_reason).where(WorkerRow.name == name, WorkerRow.quarantined_at.is_not(None))
    if (reason := session.execute(recalled.limit(1)).scalar_one_or_none()) is not None:
        raise Conflict(
            f"what key {signer[:12]} signed was recalled ({reason}): `enginefarm workers release {name}` takes it again"
        )


def _columns(came: VerifiedRecord) -> dict[str, Any]:
    return {
        "model": came.spec["model"],
        "toolchain": came.toolchain,
        "version": came.version,
        "platform": came.platform.model_dump(),
        "bound_to": came.bound_to,
        "driver_binding": came.driver_binding,
        "spec": came.spec,
        "provenance": came.facts,
    }


def _say_when(session: Session, came: VerifiedRecord, attempt: int) -> None:
    """How long it took there is how long it would take here: estimates may count it."""
    which = (AttemptRow.action_key == came.record.key, AttemptRow.number == attempt)
    session.execute(update(AttemptRow).where(*which).values(started_at=came.started_at, ended_at=came.ended_at))
