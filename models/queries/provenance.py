"""What this farm signs about an engine, as in-toto statements from the catalogue's rows. Reads only.

`statement_of` is SLSA provenance v1 of an engine that this farm built, `summary_of` is an SLSA verification summary v1
of one that it imported. https://slsa.dev/spec/v1.0/provenance explains the fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.key import Key
from enginefarm.contract.model.resolved_files import ResolvedFiles
from enginefarm.contract.work import UnreadableWork, read_work
from enginefarm.trust.attestation import BUILD_TYPE, Statement, Subject
from enginefarm.trust.verification_summary import summary_statement
from models.catalogue.rows import ActionRow, AttemptRow, EngineRow, ImportRow, WorkerRow


def statement_of(session: Session, key: Key, *, builder: str) -> Statement:
    """The provenance of a published engine. It stays the same until the engine is published anew.

    Args:
        builder: the farm's URI.
    """
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
    # An engine keeps its attempt, and an attempt its worker: see models.retention.past_actions.
    log: dict[str, Any] = {"name": "log", "annotations": {"worker": worker_name, "attempt": attempt.number}}
    if attempt.log_digest:
        log["digest"] = {"sha256": _hex(attempt.log_digest)}
    internal: dict[str, Any] = {
        "document": build.document,
        "platform": engine.platform,
        "bound_to": engine.bound_to,
        "driver_binding": engine.driver_binding,
    }
    # How the stage's programs were kept from the rest of the machine; engines of before 0.2 do not say.
    if "isolation" in engine.provenance:
        internal["isolation"] = engine.provenance["isolation"]
    return Statement(
        subject=(Subject(name=key, digest={"sha256": _hex(engine.manifest)}),),
        predicate={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                # External: what the caller chose. Internal: what the farm derived from it.
                "externalParameters": {"spec": engine.spec},
                "internalParameters": internal,
                "resolvedDependencies": [
                    _model(convert.document),
                    # The checkpoint of this engine, from its provenance: it may have been converted anew since then.
                    {
                        "name": "checkpoint",
                        "digest": {"sha256": _hex(engine.provenance["checkpoint"])},
                        "annotations": {"key": convert.key},
                    },
                    *_files(convert, build),
                ],
            },
            "runDetails": {
                "builder": {"id": builder, "version": {engine.toolchain: engine.version}},
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


def summary_of(session: Session, key: Key, *, verifier: str) -> Statement | None:
    """The statement that this farm verified the provenance of an imported engine; None if it built the engine itself.

    Args:
        verifier: the farm's URI.
    """
    engine = session.get_one(EngineRow, key)
    row = session.get(ImportRow, (key, engine.attempt))
    if row is None:
        return None
    attestations = [row.envelope]
    if row.summary is not None:
        attestations.append(row.summary)
    return summary_statement(
        key=key,
        manifest=engine.manifest,
        verifier=verifier,
        verified_at=row.imported_at,
        signer=row.signer,
        attestations=attestations,
    )


def _model(convert_document: dict[str, Any]) -> dict[str, JsonValue]:
    """The model as a ResourceDescriptor, by what enters the key."""
    identity = convert_document.get("model", {})
    # Not by where it was fetched: that may be a path of the farm.
    descriptor: dict[str, JsonValue] = {"name": "model", "annotations": identity}
    match identity:
        case {"source": "hf", "repo": str(repo), "commit": str(commit)}:
            descriptor["uri"] = f"pkg:huggingface/{repo}@{commit}"
            descriptor["digest"] = {"gitCommit": commit}
        case {"digest": str(digest)}:
            # Of the list of its files, each with its digest.
            descriptor["digest"] = {"sha256": _hex(digest)}
    return descriptor


def _files(convert: ActionRow, build: ActionRow) -> Iterator[dict[str, JsonValue]]:
    """The files of the model and of other inputs whose digests the farm knows: a hub states those of large files."""
    for action in (convert, build):
        try:
            work = read_work(action.work)
        except UnreadableWork:  # of an earlier or later release
            continue
        inputs: dict[str, ResolvedFiles] = dict(work.inputs)
        if work.model is not None:
            inputs["model"] = work.model
        for name, files in sorted(inputs.items()):
            for file in files.files:
                if file.digest is not None:
                    yield {"name": f"{name}/{file.path}", "digest": {"sha256": _hex(file.digest)}}


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
