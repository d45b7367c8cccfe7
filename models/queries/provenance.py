"""What the catalogue knows of how an engine came to be, as an in-toto statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.key import Key
from enginefarm.trust.attestation import BUILD_TYPE, Statement, Subject
from models.catalogue.rows import ActionRow, AttemptRow, EngineRow, WorkerRow


def statement_of(session: Session, key: Key) -> Statement:
    """The statement about a published engine; the same for as long as the engine is."""
    engine = session.get_one(EngineRow, key)
    build = session.get_one(ActionRow, key)
    assert build.depends_on is not None, "an engine is built from a checkpoint"
    convert = session.get_one(ActionRow, build.depends_on)
    return Statement(
        subject=(Subject(name=key, digest={"sha256": _hex(engine.manifest)}),),
        predicate={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"spec": engine.spec},
                "internalParameters": {"document": build.document, "platform": engine.platform},
                "resolvedDependencies": [_model(convert), _checkpoint(convert.key, engine)],
            },
            "runDetails": {
                "builder": {"id": "urn:enginefarm:farm", "version": {engine.toolchain: engine.version}},
                "metadata": _times(session, key, engine.attempt),
                "byproducts": [_log(session, key, engine.attempt)],
            },
            "enginefarm_facts": engine.provenance,
        },
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _model(convert: ActionRow) -> dict[str, Any]:
    """The model by what enters the key. Where it was fetched from may be a path of the farm, and stays there."""
    identity = convert.document.get("model", {})
    return {"name": "model", "annotations": identity}


def _checkpoint(key: Key, engine: EngineRow) -> dict[str, Any]:
    """The checkpoint that this engine was built from, even if it was converted anew since then."""
    return {
        "name": "checkpoint",
        "digest": {"sha256": _hex(engine.provenance["checkpoint"])},
        "annotations": {"key": key},
    }


def _times(session: Session, key: Key, attempt: int) -> dict[str, Any]:
    row = session.get_one(AttemptRow, (key, attempt))
    return {
        "invocationId": f"{key}/{attempt}",
        "startedOn": row.started_at.isoformat(),
        "finishedOn": row.ended_at.isoformat() if row.ended_at else None,
    }


def _log(session: Session, key: Key, attempt: int) -> dict[str, Any]:
    row, worker = session.execute(
        select(AttemptRow, WorkerRow.name)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key == key, AttemptRow.number == attempt)
    ).one()
    digest = {"digest": {"sha256": _hex(row.log_digest)}} if row.log_digest else {}
    return {"name": "log", "annotations": {"worker": worker, "attempt": attempt}} | digest
