"""The provenance of an engine, as an in-toto statement from the catalogue's rows. Reads only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.key import Key
from enginefarm.trust.attestation import BUILD_TYPE, Statement, Subject
from models.catalogue.rows import ActionRow, AttemptRow, EngineRow, WorkerRow


def statement_of(session: Session, key: Key) -> Statement:
    """The statement about a published engine. It stays the same until the engine is published anew."""
    engine = session.get_one(EngineRow, key)
    build = session.get_one(ActionRow, key)
    assert build.depends_on is not None, "an engine is built from a checkpoint"
    convert = session.get_one(ActionRow, build.depends_on)
    attempt, worker_name = session.execute(
        select(AttemptRow, WorkerRow.name)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key == key, AttemptRow.number == engine.attempt)
    ).one()
    finished_on = None
    if attempt.ended_at is not None:
        finished_on = attempt.ended_at.isoformat()
    # Rows of workers are never deleted, so the name of an old attempt's worker is known.
    log: dict[str, Any] = {"name": "log", "annotations": {"worker": worker_name, "attempt": attempt.number}}
    if attempt.log_digest:
        log["digest"] = {"sha256": _hex(attempt.log_digest)}
    return Statement(
        subject=(Subject(name=key, digest={"sha256": _hex(engine.manifest)}),),
        predicate={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                # External: what the caller chose. Internal: what the farm derived from it.
                "externalParameters": {"spec": engine.spec},
                "internalParameters": {"document": build.document, "platform": engine.platform},
                "resolvedDependencies": [
                    # The model by what enters the key, not by where it was fetched: that may be a path of the farm.
                    {"name": "model", "annotations": convert.document.get("model", {})},
                    # The checkpoint of this engine, from its provenance: it may have been converted anew since then.
                    {
                        "name": "checkpoint",
                        "digest": {"sha256": _hex(engine.provenance["checkpoint"])},
                        "annotations": {"key": convert.key},
                    },
                ],
            },
            "runDetails": {
                "builder": {"id": "urn:enginefarm:farm", "version": {engine.toolchain: engine.version}},
                "metadata": {
                    "invocationId": f"{key}/{attempt.number}",
                    "startedOn": attempt.started_at.isoformat(),
                    "finishedOn": finished_on,
                },
                "byproducts": [log],
            },
            "enginefarm_facts": engine.provenance,
        },
    )


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
